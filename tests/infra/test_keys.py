"""Keys of a table on disk: each row once, by what was added since, without reading the rest."""

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.store.dataset import Dataset
from infra.store.keys import Keys
from infra.store.schema import SCHEMAS

KEY = ("source_id", "transform_id")


@pytest.fixture(params=["local", "s3"])
def dataset(request, tmp_path):
    root = str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3")
    return Dataset.open(root, create=True)


def _clips(*sources, transform="t"):
    return [
        {"source_id": source, "transform_id": transform, "clip_id": f"{source}-{row}"}
        for source in sources
        for row in range(2)
    ]


def _added(rows):
    return rows["clip_id"].to_pylist()


def test_the_rows_of_a_new_key_are_added_together_and_once(dataset):
    with Keys(dataset, "clips", KEY) as keys:
        assert _added(dataset.append_once("clips", _clips("a"), keys)) == ["a-0", "a-1"]
        assert _added(dataset.append_once("clips", _clips("a", "b"), keys)) == ["b-0", "b-1"]
        before = dataset.version("clips")
        assert _added(dataset.append_once("clips", _clips("a", "b"), keys)) == []
        assert dataset.version("clips") == before
        other = _clips("a", transform="other")
        assert _added(dataset.append_once("clips", other, keys)) == ["a-0", "a-1"]


def test_what_others_added_since_is_known(dataset):
    with Keys(dataset, "clips", KEY) as mine, Keys(dataset, "clips", KEY) as theirs:
        dataset.append_once("clips", _clips("a"), mine)
        assert _added(dataset.append_once("clips", _clips("a", "b"), theirs)) == ["b-0", "b-1"]
        dataset.append("clips", _clips("c"))
        assert _added(dataset.append_once("clips", _clips("b", "c"), mine)) == []
        assert len(mine) == 3


def test_what_came_right_after_a_commit_whose_answer_was_late_is_known(dataset):
    """As where the answer to a commit is lost, and others commit before it is asked for."""
    with Keys(dataset, "clips", KEY) as keys:
        keys.refresh()
        rows = pa.Table.from_pylist(_clips("a"), schema=SCHEMAS["clips"])
        assert keys.writer.commit(rows)
        dataset.append("clips", _clips("b"))
        keys.writer.refresh()
        keys.committed(rows)
        assert _added(dataset.append_once("clips", _clips("a", "b"), keys)) == []


def test_missing_tells_without_adding(dataset):
    dataset.append("clips", _clips("a"))
    rows = pa.Table.from_pylist(_clips("a", "b"))
    with Keys(dataset, "clips", KEY) as keys:
        keys.refresh()
        assert _added(keys.missing(rows)) == ["b-0", "b-1"]
        assert _added(keys.missing(rows)) == ["b-0", "b-1"]


def test_only_the_files_of_newer_commits_are_read(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("clips", _clips("a"))
    with Keys(dataset, "clips", KEY) as keys:
        keys.refresh()
        for path in (tmp_path / "clips").glob("*.parquet"):
            path.unlink()  # to read it again would fail
        dataset.append("clips", _clips("b"))
        assert _added(dataset.append_once("clips", _clips("a", "b", "c"), keys)) == ["c-0", "c-1"]


def test_a_compacted_table_is_not_read_again(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    for source in ("a", "b"):
        dataset.append("clips", _clips(source))
    with Keys(dataset, "clips", KEY) as keys:
        keys.refresh()
        table = keys.writer._table
        table.optimize.compact()
        for path in (tmp_path / "clips").glob("*.parquet"):
            path.unlink()  # to read the new, larger file would fail
        assert _added(dataset.append_once("clips", _clips("a", "c"), keys)) == ["c-0", "c-1"]


def test_a_log_that_was_cut_short_is_made_up_for_by_the_whole_table(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("clips", _clips("a"))
    with Keys(dataset, "clips", KEY) as keys:
        keys.refresh()
        dataset.append("clips", _clips("b"))
        keys.writer.refresh()
        (tmp_path / "clips/_delta_log/00000000000000000002.json").unlink()
        assert list(keys._new_files()) == keys.writer.files()


def test_the_scratch_folder_goes_with_the_keys(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with Keys(Dataset.open(str(tmp_path / "data"), create=True), "clips", KEY) as keys:
        keys.refresh()
        assert list((tmp_path / "scratch").iterdir())
    assert list((tmp_path / "scratch").iterdir()) == []


_sources = st.lists(st.sampled_from([None, "", "a", "b", "c", "None", "a', 'b"]), max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_sources, max_size=4))
def test_a_key_is_added_by_the_first_call_that_has_it_and_by_no_other(tmp_path_factory, calls):
    dataset = Dataset.open(str(tmp_path_factory.mktemp("law")), create=True)
    held: set[str | None] = set()
    with Keys(dataset, "clips", ("source_id",)) as keys:
        for sources in calls:
            rows = pa.table({"source_id": pa.array(sources, pa.string())})
            added = dataset.append_once("clips", rows, keys)["source_id"].to_pylist()
            assert added == [source for source in sources if source not in held]
            held |= set(sources)
        assert len(keys) == len(held)
