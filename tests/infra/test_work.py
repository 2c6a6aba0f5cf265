"""Scratch folders: rows that any node can read, for as long as their run lasts."""

import pyarrow.dataset as pads
import pytest

from infra import storage
from infra.store.dataset import Dataset
from infra.store.work import laid


@pytest.fixture(params=["local", "s3"])
def dataset(request, tmp_path):
    local = request.param == "local"
    root = str(tmp_path) if local else f"{request.getfixturevalue('s3')}/d"
    return Dataset.open(root, create=True)


def left(dataset):
    return [info.uri for info in storage.list_files(dataset.uri("work"))]


def test_rows_of_a_query_lie_where_tasks_can_read_them(dataset):
    sql = "SELECT range::VARCHAR AS clip_id FROM range(0, ?)"
    with laid(dataset, sql, (40_000,)) as (folder, num_rows):
        files, path = storage.filesystem(folder.rows)
        folder.keep()
        rows = pads.dataset(path, filesystem=files, format="parquet").to_table()
        assert sorted(map(int, rows["clip_id"].to_pylist())) == list(range(num_rows))
        assert num_rows == 40_000
    assert left(dataset) == []


def test_nothing_is_left_where_the_run_fails_or_has_nothing_to_do(dataset):
    with pytest.raises(ZeroDivisionError), laid(dataset, "SELECT 1 AS a") as (_, num_rows):
        raise ZeroDivisionError
    assert (num_rows, left(dataset)) == (1, [])
    with laid(dataset, "SELECT clip_id FROM clips") as (_, num_rows):
        assert (num_rows, left(dataset)) == (0, [])


def test_what_keeps_a_folder_sorts_before_all_that_it_keeps(dataset):
    with laid(dataset, "SELECT 1 AS a") as (folder, _):
        folder.keep()
        first, *others = left(dataset)
        assert first == f"{folder.uri}/.alive"
        assert others
