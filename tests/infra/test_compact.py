"""Compaction: the same rows in fewer files, beside writers and other compactions."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import storage
from infra.errors import DataError
from infra.store.compact import _bins, _File, compact
from infra.store.dataset import Dataset
from infra.store.keys import Keys


@pytest.fixture(params=["local", "s3"])
def dataset(request, tmp_path):
    root = str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3")
    return Dataset.open(root, create=True)


def score(index):
    return {"clip_id": f"{index:04d}", "scorer": "s", "version": "1", "value": float(index)}


def ids(dataset, version=None):
    return sorted(dataset.read("scores", version, ["clip_id"])["clip_id"].to_pylist())


def test_rows_stay_and_files_become_few(dataset):
    for index in range(12):
        dataset.append("scores", [score(index)])
    version = dataset.version("scores")
    done = compact(dataset, "scores")
    assert (done.num_files_removed, done.num_files_added, done.num_files) == (12, 1, 1)
    assert ids(dataset) == ids(dataset, version) == [f"{i:04d}" for i in range(12)]
    (path,) = dataset.rows("scores").files
    with dataset.rows("scores").filesystem.open_input_file(path) as file:
        assert pq.ParquetFile(file).num_row_groups == 1
    assert compact(dataset, "scores").num_files_removed == 0


def test_a_table_without_a_commit_is_left_alone(dataset):
    assert compact(dataset, "vectors").num_files == 0
    assert dataset.version("vectors") == -1


def test_writers_and_compactions_at_once_lose_nothing(dataset):
    dataset.append("scores", [score(0)])
    stop = threading.Event()

    def press():
        while not stop.is_set():
            compact(dataset, "scores")

    with ThreadPoolExecutor(4) as pool:
        pressing = [pool.submit(press) for _ in range(2)]
        writing = [
            pool.submit(lambda part: [dataset.append("scores", [score(i)]) for i in part], part)
            for part in (range(1, 13), range(13, 25))
        ]
        for one in writing:
            one.result()
        stop.set()
        for one in pressing:
            one.result()
    assert ids(dataset) == [f"{index:04d}" for index in range(25)]


def test_keys_held_before_a_compaction_are_still_right(dataset):
    dataset.append("scores", [score(0), score(1)])
    dataset.append("scores", [score(2)])
    with Keys(dataset, "scores", ("clip_id",)) as keys:
        compact(dataset, "scores")
        dataset.append("scores", [score(3)])
        rows = dataset.read("scores")
        keys.refresh()
        assert keys.missing(rows).num_rows == 0


def test_columns_of_another_program_are_not_dropped(dataset):
    for index in range(2):
        dataset.append("scores", [score(index)])
    rows = pa.table({"clip_id": ["x"], "judge": ["me"]})
    options = storage.delta_options(dataset.root)
    uri = dataset.uri("scores")
    deltalake.write_deltalake(
        uri, rows, mode="append", schema_mode="merge", storage_options=options
    )
    before = dataset.version("scores")
    with pytest.raises(DataError, match=r"columns \['judge'\], which would be lost"):
        compact(dataset, "scores")
    assert dataset.version("scores") == before


def test_many_small_files_are_sorted_into_bins_in_one_pass():
    files = [_File(f"{index}", 1, 1) for index in range(100_000)]
    started_s = time.process_time()
    assert [len(one) for one in _bins(files, 60_000)] == [60_000, 40_000]
    assert time.process_time() - started_s < 2, "a sum over all files for each file"
