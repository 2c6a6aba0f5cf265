"""The dataset: tables that survive repeats, and roots that are refused."""

import json
import shutil
import subprocess
import sys

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from infra import storage
from infra.errors import DataError, ServiceError
from infra.store.dataset import Dataset
from infra.store.schema import SCHEMAS


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
    with pytest.raises(DataError, match=r"format 7.*reads format 2 .*; choose another root"):
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


def test_rows_are_streamed_as_they_are_read(root):
    dataset = Dataset.open(root, create=True)
    assert list(dataset.batches("scores")) == []
    for start in (0, 40_000):
        rows = pa.table({"clip_id": [f"{start + i:06}" for i in range(40_000)]})
        dataset.append("scores", rows)
    batches = list(dataset.batches("scores", columns=["clip_id"]))
    assert max(len(batch) for batch in batches) <= 1 << 14
    assert sum(len(batch) for batch in batches) == 80_000
    some = dataset.batches("scores", version=1, where=pc.field("clip_id") >= "039999")
    assert [row["clip_id"] for batch in some for row in batch.to_pylist()] == ["039999"]


def test_the_history_tells_what_every_commit_did(root):
    dataset = Dataset.open(root, create=True)
    assert dataset.history("captions") == []
    for number in (1, 3):
        dataset.append("captions", [{"clip_id": str(row)} for row in range(number)])
    newest, older, laid = dataset.history("captions")
    assert (newest.version, newest.num_rows_added, newest.num_files_added) == (2, 3, 1)
    assert (older.version, older.num_rows_added) == (1, 1)
    assert (laid.version, laid.operation, laid.num_rows_added) == (0, "CREATE TABLE", 0)
    assert newest.at >= older.at
    sizes = [info.size_bytes for info in storage.list_files(dataset.uri("captions"))
             if info.uri.endswith(newest.new_files[0])]  # fmt: skip
    assert sizes == [newest.num_bytes_added]


def test_new_keys_are_told_by_all_their_columns_and_by_nulls(root):
    dataset = Dataset.open(root, create=True)
    key = ("clip_id", "scorer", "version")
    rows = [{"clip_id": c, "scorer": s, "version": v} for c, s, v in (
        ("a", "motion", "1"), ("a", "motion", None), ("b", "motion", "1"))]  # fmt: skip
    assert dataset.append_new("scores", rows, key) == 3
    rows += [{"clip_id": "b", "scorer": "text", "version": "1"}, {"clip_id": "c"}]
    assert dataset.append_new("scores", rows, key) == 2
    assert dataset.append_new("scores", rows, key) == 0
    assert dataset.append_new("scores", [], key) == 0


def _lay_format_1(root):
    """Lay a dataset as the first version of this program did."""
    storage.write_bytes(storage.join(root, "dataset.json"), json.dumps({"format": 1}).encode())
    names = [n for n in SCHEMAS["quarantine"].names if n not in ("clip_id", "policy_id")]
    old = pa.schema([SCHEMAS["quarantine"].field(name) for name in names])
    rows = pa.Table.from_pylist([{"source_uri": "old", "stage": "scan"}], schema=old)
    options = storage.delta_options(root)
    deltalake.write_deltalake(
        storage.join(root, "quarantine"), rows, mode="append", storage_options=options
    )


def test_a_dataset_of_the_first_format_is_read_as_it_is_and_raised_when_written(root):
    _lay_format_1(root)
    marker = storage.join(root, "dataset.json")
    (row,) = Dataset.open(root).read("quarantine").to_pylist()
    assert (row["source_uri"], row["clip_id"]) == ("old", None)
    assert json.loads(storage.read_bytes(marker)) == {"format": 1}
    dataset = Dataset.open(root, create=True)
    assert json.loads(storage.read_bytes(marker)) == {"format": 2}
    dataset.append("quarantine", [{"source_uri": "new", "clip_id": "c"}])
    dataset.append_new("quarantine", [{"source_uri": "newer", "clip_id": "d"}], ("clip_id",))
    found = dataset.read("quarantine", columns=["source_uri", "clip_id"]).to_pylist()
    assert {row["source_uri"]: row["clip_id"] for row in found} == {
        "old": None, "new": "c", "newer": "d"
    }  # fmt: skip
    assert dataset.read("quarantine", version=0)["source_uri"].to_pylist() == ["old"]


def test_a_table_that_lost_its_log_is_not_taken_for_an_empty_one(root):
    dataset = Dataset.open(root, create=True)
    dataset.append("captions", [{"clip_id": "a"}])
    storage.delete(dataset.uri("captions", "_delta_log"))
    for use in (
        lambda: dataset.read("captions"),
        lambda: dataset.append("captions", [{"clip_id": "b"}]),
    ):
        with pytest.raises(DataError, match=r"captions: holds data files but no log; restore"):
            use()


def test_a_damaged_log_is_named(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("captions", [{"clip_id": "a"}])
    (tmp_path / "captions/_delta_log/00000000000000000001.json").write_text('{"add": {"pa')
    with pytest.raises(DataError, match=r"captions: the table cannot be used .*restore"):
        dataset.read("captions")
    with pytest.raises(DataError, match=r"captions: the table cannot be used .*restore"):
        dataset.append("captions", [{"clip_id": "b"}])


def test_a_data_file_that_is_gone_is_named(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("captions", [{"clip_id": "a"}])
    (data,) = (tmp_path / "captions").glob("*.parquet")
    data.unlink()
    with pytest.raises(DataError, match=r"captions: a data file .* is gone .*restore it"):
        dataset.read("captions")


def test_a_version_that_is_not_there_is_named(root):
    dataset = Dataset.open(root, create=True)
    with pytest.raises(DataError, match="version 3 is asked for, no table there"):
        dataset.read("captions", version=3)
    dataset.append("captions", [{"clip_id": "a"}])
    with pytest.raises(DataError, match=r"version 3 .*newest is 1"):
        dataset.read("captions", version=3)


def test_no_version_expires_by_itself(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    dataset.append("captions", [{"clip_id": "a"}])
    settings = deltalake.DeltaTable(dataset.uri("captions")).metadata().configuration
    assert settings["delta.enableExpiredLogCleanup"] == "false"
    assert settings["delta.logRetentionDuration"] == "interval 36500 days"


def test_a_hundred_commits_and_their_checkpoint_keep_every_version(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    for number in range(103):
        dataset.append("recipes", [{"recipe_id": str(number)}])
    assert list((tmp_path / "recipes/_delta_log").glob("*.checkpoint.parquet"))
    assert len(dataset.read("recipes")) == 103
    assert len(dataset.read("recipes", version=7)) == 7
    assert len(dataset.history("recipes")) == 104


def test_a_store_that_would_lose_commits_is_refused_whoever_laid_the_dataset(rclone_s3):
    with pytest.raises(ServiceError, match="ignores If-None-Match"):
        Dataset.open(rclone_s3, create=True)
    marker = storage.join(rclone_s3, "dataset.json")
    storage.write_bytes(marker, json.dumps({"format": 2}).encode())
    with pytest.raises(ServiceError, match="ignores If-None-Match"):
        Dataset.open(rclone_s3, create=True)
    dataset = Dataset.open(rclone_s3)
    assert dataset.read("captions").num_rows == 0
    with pytest.raises(ServiceError, match="ignores If-None-Match"):
        dataset.append("captions", [{"clip_id": "a"}])
    assert [info.uri for info in storage.list_files(rclone_s3)] == [marker]


def test_a_dataset_is_read_from_a_store_that_may_not_be_written(rclone_s3, tmp_path):
    local = Dataset.open(str(tmp_path / "data"), create=True)
    local.append("captions", [{"clip_id": "a"}])
    storage.upload_folder(tmp_path / "data", storage.join(rclone_s3, "copy"))
    copy = Dataset.open(storage.join(rclone_s3, "copy"))
    assert copy.read("captions", columns=["clip_id"]).to_pylist() == [{"clip_id": "a"}]
    assert [commit.num_rows_added for commit in copy.history("captions")] == [1, 0]


def test_a_disk_that_fills_up_while_a_commit_is_written_keeps_the_table(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        dataset = Dataset.open(str(disk / "data"), create=True)
        dataset.append("captions", [{"clip_id": "a"}])
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 8192))
        with pytest.raises(DataError, match="free space"):
            dataset.append("captions", [{"clip_id": "b", "text": "x" * 50_000}])
        assert dataset.read("captions")["clip_id"].to_pylist() == ["a"]
        (disk / "ballast").unlink()
        dataset.append("captions", [{"clip_id": "b"}])
    finally:
        subprocess.run(["umount", disk], check=True)
