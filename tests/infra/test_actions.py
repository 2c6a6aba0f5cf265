"""Rewrites of a Delta table: after whatever came since, and never over another rewrite."""

import pytest

from infra import storage
from infra.errors import DataError
from infra.store import actions
from infra.store.dataset import Dataset


@pytest.fixture(params=["local", "s3"])
def dataset(request, tmp_path):
    root = str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3")
    found = Dataset.open(root, create=True)
    for index in range(3):
        found.append("scores", [{"clip_id": f"{index}", "scorer": "s", "value": 0.0}])
    return found


def adds(uri, *versions):
    found = [action["add"] for version in versions for action in actions.read(uri, version)[1:]]
    assert len(found) == len(versions)
    return found


def rewrite(uri, *versions):
    """A rewrite of the files of some commits into a copy of the first of them."""
    gone = adds(uri, *versions)
    data = storage.read_bytes(storage.join(uri, gone[0]["path"]))
    name = f"joined-{'-'.join(map(str, versions))}.parquet"
    storage.write_bytes(storage.join(uri, name), data)
    came = [{"path": name, "size": len(data), "stats": '{"numRecords":1}'}]
    return actions.Rewrite(removed=gone, added=came, operation="OPTIMIZE")


def test_a_rewrite_follows_what_others_appended_meanwhile(dataset):
    uri, seen = dataset.uri("scores"), dataset.version("scores")
    planned = rewrite(uri, 1, 2)
    dataset.append("scores", [{"clip_id": "late", "scorer": "s", "value": 0.0}])
    assert actions.commit(uri, seen, planned) == seen + 2
    assert sorted(dataset.read("scores")["clip_id"].to_pylist()) == ["0", "2", "late"]
    (newest, *_) = dataset.history("scores")
    assert (newest.operation, newest.num_files_removed, newest.new_files) == ("OPTIMIZE", 2, ())


def test_of_two_rewrites_of_one_file_the_later_gives_way(dataset):
    uri, seen = dataset.uri("scores"), dataset.version("scores")
    first, second = rewrite(uri, 1, 2), rewrite(uri, 2, 3)
    assert actions.commit(uri, seen, first) == seen + 1
    assert actions.commit(uri, seen, second) is None
    assert dataset.version("scores") == seen + 1


def test_a_rewrite_whose_answer_was_lost_knows_itself_again(dataset):
    uri, seen = dataset.uri("scores"), dataset.version("scores")
    planned = rewrite(uri, 1, 2)
    assert actions.commit(uri, seen, planned) == seen + 1
    assert actions.commit(uri, seen, planned) == seen + 1, "taken for another one's"
    assert dataset.version("scores") == seen + 1


def test_two_rewrites_of_different_files_both_count(dataset):
    uri, seen = dataset.uri("scores"), dataset.version("scores")
    first, second = rewrite(uri, 1), rewrite(uri, 2)
    assert actions.commit(uri, seen, first) == seen + 1
    assert actions.commit(uri, seen, second) == seen + 2


def test_a_commit_that_is_not_json_is_named(tmp_path):
    uri = str(tmp_path / "table")
    storage.write_bytes(f"{uri}/_delta_log/{0:020d}.json", b"{torn")
    with pytest.raises(DataError, match="cannot be understood"):
        actions.read(uri, 0)
    assert actions.read(uri, 1) is None
