import contextlib
import gzip
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import storage
from infra.errors import ConfigError, DataError, ServiceError


@pytest.fixture(params=["local", "s3", "rclone_s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One folder on disk and two in S3: everything must hold for all."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue(request.param)


@pytest.fixture(params=["local", "s3"])
def honest(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of a store that honours conditional puts."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue(request.param)


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


def test_only_one_exclusive_create_wins(honest):
    uri = storage.join(honest, "commits/1.json")
    assert storage.create_exclusive(uri, b"first")
    assert not storage.create_exclusive(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


def test_a_store_with_conditional_puts_passes_the_probe_and_keeps_nothing(honest):
    storage.check_conditional_put(honest)
    assert list(storage.list_files(honest)) == []


def test_a_store_that_ignores_conditional_puts_is_refused_and_keeps_nothing(rclone_s3):
    with pytest.raises(ServiceError, match="ignores If-None-Match"):
        storage.check_conditional_put(rclone_s3)
    assert list(storage.list_files(rclone_s3)) == []


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


@pytest.mark.parametrize("name", ["a#1.mp4", "a?b.mp4", "50%20.mp4"])
def test_a_file_uri_names_its_file_as_it_stands(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    assert storage.read_bytes(f"file://{tmp_path}/{name}") == b"1"
    assert storage.absolute(f"file://localhost{tmp_path}/{name}") == f"{tmp_path}/{name}"


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
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    assert [info.uri for info in storage.list_files(str(tmp_path))] == [f"{tmp_path}/real.mp4"]
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 3
    assert "self.mp4 fault=Too many levels" in " ".join(warned)
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


NAMES = ["a.txt", "a/b c#ü.txt", "a/b/c", "a-b", "a0", "z", "ü/ß", "\U0001f600", "\uffee"]


def test_files_are_listed_in_the_order_of_s3(root):
    for name in NAMES:
        storage.write_bytes(storage.join(root, name), name.encode())
    found = [info.uri.removeprefix(f"{root}/") for info in storage.list_files(root)]
    assert found == sorted(NAMES, key=str.encode)


_parts = st.text("ab-./ü", min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(names=st.sets(_parts, max_size=8))
def test_a_local_folder_is_listed_as_s3_would_whatever_the_names(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        path = folder / name.replace("..", "dd").strip("/.").replace("//", "/")
        if path != folder and not path.exists() and not any(p.is_file() for p in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = [info.uri for info in storage.list_files(str(folder))]
    assert found == sorted(
        (str(path) for path in folder.rglob("*") if path.is_file()), key=str.encode
    )


def test_a_listing_is_not_read_to_its_end_before_its_first_file(tmp_path):
    for name in ("a", "b/c"):
        storage.write_bytes(str(tmp_path / name), b"1")
    files = storage.list_files(str(tmp_path))
    assert next(files).uri.endswith("/a")
    (tmp_path / "b/d").touch()
    assert [info.uri[-3:] for info in files] == ["b/c", "b/d"]


def test_a_deep_folder_is_listed_whatever_python_allows_to_recurse(tmp_path):
    deep = tmp_path.joinpath(*["d"] * (sys.getrecursionlimit() + 100))
    top = tmp_path
    for _ in range(sys.getrecursionlimit() + 100):
        top = top / "d"
        top.mkdir()
    (deep / "file").touch()
    found = [info.uri for info in storage.list_files(str(tmp_path))]
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # Python itself cannot
    assert found == [f"{deep}/file"]


def test_links_that_multiply_are_followed_once_each(tmp_path):
    for level in range(12):
        (tmp_path / f"{level}").mkdir()
        for name in ("x", "y") if level else ():
            (tmp_path / f"{level - 1}" / name).symlink_to(tmp_path / f"{level}")
    (tmp_path / "11/file").touch()
    assert 1 <= sum(1 for _ in storage.list_files(str(tmp_path))) <= 13


def test_a_large_file_travels_in_parts_and_comes_back(root, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(1 << 20) * 40)
    storage.upload(source, storage.join(root, "up/large"))
    size = storage.copy_to(storage.join(root, "up/large"), back, limit_bytes=40 << 20)
    assert size == 40 << 20
    assert back.read_bytes() == source.read_bytes()
    storage.upload(source, storage.join(root, "up/moved"), move=True)
    assert not source.exists()
    tail = storage.read_range(storage.join(root, "up/moved"), (40 << 20) - 3, 9)
    assert tail == back.read_bytes()[-3:]


def test_a_file_over_the_limit_is_not_copied(root, tmp_path):
    storage.write_bytes(storage.join(root, "file"), bytes(1001))
    with pytest.raises(DataError, match=r"file: 1,001 bytes, at most 1,000 are accepted"):
        storage.copy_to(storage.join(root, "file"), tmp_path / "copy" / "x", limit_bytes=1000)
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_file_that_says_nothing_of_its_size_is_stopped_at_the_limit(tmp_path):
    os.mkfifo(tmp_path / "endless")
    writer = threading.Thread(target=_pour, args=(tmp_path / "endless",))
    writer.start()
    with pytest.raises(DataError, match="at most 2,000,000 are accepted"):
        storage.copy_to(str(tmp_path / "endless"), tmp_path / "copy/x", limit_bytes=2_000_000)
    writer.join()
    assert list((tmp_path / "copy").iterdir()) == []


def _pour(path):
    with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def test_a_range_behind_the_end_is_empty(root):
    uri = storage.join(root, "file")
    storage.write_bytes(uri, b"12345")
    assert storage.read_range(uri, 3, 9) == b"45"
    assert storage.read_range(uri, 5, 9) == b""
    assert storage.read_range(uri, 2, 0) == b""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", at]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield at
    subprocess.run(["umount", at], check=True)


def test_a_disk_that_fills_up_is_named_and_keeps_nothing(small_disk, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(2 << 20))
    for attempt in (
        lambda: storage.write_bytes(str(small_disk / "x"), bytes(2 << 20)),
        lambda: storage.create_exclusive(str(small_disk / "x"), bytes(2 << 20)),
        lambda: storage.upload(source, str(small_disk / "x"), move=True),
        lambda: storage.copy_to(str(source), small_disk / "x", limit_bytes=3 << 20),
    ):
        with pytest.raises(DataError, match=r"x: cannot be written, the disk is full .*free space"):
            attempt()
        assert list(small_disk.iterdir()) == []
    assert source.exists()


def test_a_read_only_target_is_named(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(DataError, match=r"it is read-only or rights are missing .*another place"):
        storage.write_bytes(str(small_disk / "x"), b"1")
