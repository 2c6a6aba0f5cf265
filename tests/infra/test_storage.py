import gzip
import os
import resource
from pathlib import Path

import boto3
import pytest

from infra import storage
from infra.errors import ConfigError, DataError, ServiceError


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One folder on disk and one in S3: everything must hold for both."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


def test_what_is_written_is_read_back(root):
    uri = storage.join(root, "a b/ü#.bin")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"three")
    assert storage.read_bytes(uri) == b"three"
    assert storage.read_range(uri, 1, 3) == b"hre"
    assert [info.size_bytes for info in storage.list_files(root)] == [5]


def test_a_packed_file_is_read_as_it_is(root):
    uri = storage.join(root, "words.gz")
    packed = gzip.compress(b"words")
    storage.write_bytes(uri, packed)
    assert storage.read_bytes(uri) == packed


def test_an_object_that_leads_out_of_its_folder_is_not_copied(s3, tmp_path):
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    bucket = s3.removeprefix("s3://")
    client.put_object(Bucket=bucket, Key="model/../../evil", Body=b"x")
    with pytest.raises(DataError, match="leads out of"):
        storage.local_copy(storage.join(s3, "model"), tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("evil"))


def test_only_one_exclusive_create_wins(root):
    uri = storage.join(root, "commits/1.json")
    assert storage.create_exclusive(uri, b"first")
    assert not storage.create_exclusive(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


def test_a_store_with_conditional_puts_passes_the_probe_and_keeps_nothing(root):
    storage.check_conditional_put(root)
    assert list(storage.list_files(root)) == []


def test_a_missing_file_is_named(root):
    uri = storage.join(root, "nothing")
    with pytest.raises(DataError, match="nothing: no such file"):
        storage.read_bytes(uri)
    assert not storage.exists(uri)
    assert list(storage.list_files(uri)) == []


def test_deleting_a_folder_removes_what_is_below_it(root):
    storage.write_bytes(storage.join(root, "x/y/z"), b"1")
    storage.delete(storage.join(root, "x"))
    storage.delete(storage.join(root, "x"))
    assert not storage.exists(storage.join(root, "x/y/z"))


def test_a_folder_travels_there_and_back(root, tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep/file").write_bytes(b"1")
    storage.upload_folder(source, storage.join(root, "target"))
    copy = storage.local_copy(storage.join(root, "target"), tmp_path / "scratch")
    assert (copy / "deep/file").read_bytes() == b"1"


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(ConfigError, match="scheme 'ftp' is not known"):
        storage.read_bytes("ftp://host/file")


def test_a_silent_s3_server_is_a_service_error(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ServiceError, match="AWS_ENDPOINT_URL"):
        storage.write_bytes("s3://bucket/key", b"1")


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match="cannot be written"):
            storage.write_bytes(str(tmp_path / "x"), bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(DataError, match="cannot be written"):
        storage.write_bytes(str(tmp_path / "file/x"), b"1")


def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    with pytest.raises(DataError, match=r"caf.xe9.mp4': the name is not UTF-8; rename the file"):
        list(storage.list_files(str(tmp_path)))


def test_links_to_nowhere_and_pipes_are_passed_over_with_a_warning(tmp_path, caplog):
    (tmp_path / "lost.mp4").symlink_to("/nowhere/x.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "real.mp4").write_bytes(b"1")
    assert [info.uri for info in storage.list_files(str(tmp_path))] == [f"{tmp_path}/real.mp4"]
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    assert "lost.mp4 fault=No such file" in " ".join(warned)
    assert "not a file uri" in " ".join(warned)


def test_mending_the_rights_of_a_file_counts_as_a_change(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "file").chmod(0)
    if os.access(tmp_path / "file", os.R_OK):
        pytest.skip("root may read every file")
    (before,) = storage.list_files(str(tmp_path))
    (tmp_path / "file").chmod(0o600)
    (after,) = storage.list_files(str(tmp_path))
    assert before.modified_ns == 0 < after.modified_ns


def test_a_folder_that_links_to_itself_is_listed_once(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(b"1")
    (tmp_path / "deep/again").symlink_to(tmp_path)
    assert [info.uri for info in storage.list_files(str(tmp_path))] == [f"{tmp_path}/deep/file"]


def test_a_local_fault_is_not_called_a_service(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        storage.read_bytes(str(tmp_path))


def test_a_bucket_that_is_not_there_is_named_with_the_way_out(s3):
    with pytest.raises(ServiceError, match=r"s3://no-such-bucket/x: .*NoSuchBucket.*; check the"):
        storage.write_bytes("s3://no-such-bucket/x", b"1")
