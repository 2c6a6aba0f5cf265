"""The dataset: tables that survive repeats, and roots that are refused."""

import json
import subprocess
import sys

import pyarrow.compute as pc
import pytest

from infra import storage
from infra.errors import DataError
from infra.store.dataset import Dataset


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    return str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3")


def test_an_appended_row_is_read_back_with_nulls_for_what_it_left_out(root):
    dataset = Dataset.open(root, create=True)
    assert dataset.version("captions") == -1
    assert dataset.read("captions").num_rows == 0
    dataset.append("captions", [{"clip_id": "a", "text": "a red circle"}])
    (row,) = dataset.read("captions").to_pylist()
    assert (row["clip_id"], row["text"], row["lang"]) == ("a", "a red circle", None)
    assert row["created_at"] is not None


def test_an_earlier_version_is_read_again(root):
    dataset = Dataset.open(root, create=True)
    first = dataset.append("captions", [{"clip_id": "a"}])
    second = dataset.append("captions", [{"clip_id": "b"}])
    assert second > first
    assert dataset.read("captions", version=first)["clip_id"].to_pylist() == ["a"]
    assert dataset.read("captions", version=-1).num_rows == 0


def test_appending_the_same_keys_again_adds_nothing(root):
    dataset = Dataset.open(root, create=True)
    rows = [{"text_hash": "h", "encoder_id": "e"}, {"text_hash": "h", "encoder_id": "e"}]
    assert dataset.append_new("embeddings", rows, ("text_hash", "encoder_id")) == 1
    rows.append({"text_hash": "i", "encoder_id": "e"})
    assert dataset.append_new("embeddings", rows, ("text_hash", "encoder_id")) == 1
    assert dataset.read("embeddings").num_rows == 2


def test_rows_and_columns_are_chosen_on_reading(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("captions", [{"clip_id": "a", "status": "ok"}, {"clip_id": "b"}])
    rows = dataset.read("captions", columns=["clip_id"], where=pc.field("status") == "ok")
    assert rows.to_pylist() == [{"clip_id": "a"}]


def test_newer_commits_have_larger_sequence_numbers(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    for text in ("old", "new"):
        dataset.append("captions", [{"clip_id": "a", "text": text}])
    rows = sorted(dataset.read("captions").to_pylist(), key=lambda row: row["commit_seq"])
    assert [row["text"] for row in rows] == ["old", "new"]


def test_a_column_that_the_table_has_not_is_refused_by_name(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    with pytest.raises(DataError, match="txt"):
        dataset.append("captions", [{"clip_id": "a", "txt": "typo"}])


def test_a_root_of_another_version_is_refused_with_the_way_out(root):
    Dataset.open(root, create=True)
    storage.write_bytes(storage.join(root, "dataset.json"), json.dumps({"format": 7}).encode())
    with pytest.raises(DataError, match=r"format 7.*reads format 2 and earlier; choose another root"):
        Dataset.open(root, create=True)


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no dataset lies here.*snapvideo ingest"):
        Dataset.open(str(tmp_path / "nothing"))


def test_tables_of_unknown_layout_are_not_written_into(tmp_path):
    (tmp_path / "clips").mkdir()
    with pytest.raises(DataError, match="layout is not known"):
        Dataset.open(str(tmp_path), create=True)


def test_a_damaged_marker_is_named(tmp_path):
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match=r"dataset.json: cannot be understood"):
        Dataset.open(str(tmp_path))


def test_a_program_that_read_a_table_ends_with_its_own_exit_code(tmp_path):
    root = tmp_path / "a ü #1"
    dataset = Dataset.open(str(root), create=True)
    dataset.append("captions", [{"clip_id": "a", "text": "x"}])
    program = (
        "import sys; from infra.store.dataset import Dataset; "
        "sys.exit(len(Dataset.open(sys.argv[1]).read('captions')) - 1)"
    )
    for _ in range(6):  # threads that outlived a read used to abort one exit in seven
        done = subprocess.run([sys.executable, "-c", program, str(root)], check=False)
        assert done.returncode == 0
