"""Fetching: bytes and their hash, wherever they lie; sources that change, vanish, are too large."""

import hashlib
import itertools
import os
import pickle
from pathlib import Path

import pytest

from infra import storage
from infra.errors import DataError, ServiceError
from infra.stills import VideoError
from pipelines.sources.address import FetchError
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import ALL, SourceEntry, refused
from pipelines.sources.fetch import fetched
from pipelines.sources.listing import list_sources
from pipelines.sources.sink import ScratchError, Sink

SETTINGS = SourceSettings(retry_wait_s=0)
SMALL = SourceSettings(retry_wait_s=0, memory_mib=1)


def fault_of(entry, settings=SETTINGS, **more):
    with pytest.raises(FetchError) as fault, fetched(entry, settings, **more):
        pass
    return fault.value


@pytest.mark.parametrize("size", [1, 1 << 20, (20 << 20) + 7])
def test_bytes_come_with_their_hash(root, size):
    content = os.urandom(size)
    storage.write_bytes(storage.join(root, "ü #1.mp4"), content)
    (entry,) = list_sources(root, SMALL)
    with fetched(entry, SMALL) as media:
        data = media.data.read_bytes() if isinstance(media.data, Path) else media.data
        assert data == content
        assert media.source_id == hashlib.sha256(content).hexdigest()
        assert media.size_bytes == size


def test_a_local_file_is_used_in_place(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"1")
    (entry,) = list_sources(str(tmp_path), SETTINGS)
    with fetched(entry, SETTINGS) as media:
        assert media.data == tmp_path / "a.mp4"
    assert (tmp_path / "a.mp4").exists()


def test_what_is_remote_and_large_is_a_file_that_is_removed_afterwards(s3):
    storage.write_bytes(f"{s3}/a.mp4", bytes(2 << 20))
    (entry,) = list_sources(s3, SMALL)
    with fetched(entry, SMALL) as media:
        assert media.data.stat().st_size == 2 << 20
    assert not media.data.exists()


def test_a_file_that_changes_while_it_is_used_is_noticed(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    (entry,) = list_sources(str(tmp_path), SETTINGS)
    with pytest.raises(FetchError, match="changed_while_read") as fault, fetched(entry, SETTINGS):
        path.write_bytes(b"22")
    assert fault.value.retryable


def test_what_a_change_broke_is_told_as_the_change(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    (entry,) = list_sources(str(tmp_path), SETTINGS)

    def decode():
        path.unlink()
        raise VideoError("unreadable", "no such frame")

    with pytest.raises(FetchError, match="changed_while_read"), fetched(entry, SETTINGS):
        decode()


def test_a_fault_of_an_unchanged_file_is_its_own(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"1")
    (entry,) = list_sources(str(tmp_path), SETTINGS)
    with pytest.raises(VideoError, match="no such frame"), fetched(entry, SETTINGS):
        raise VideoError("unreadable", "no such frame")


def test_an_object_that_changed_since_it_was_listed_is_read_as_it_is(s3):
    storage.write_bytes(f"{s3}/a.mp4", b"old")
    (entry,) = list_sources(s3, SETTINGS)
    storage.write_bytes(f"{s3}/a.mp4", b"newer")
    with fetched(entry, SETTINGS) as media:
        assert media.data == b"newer"


def test_an_object_that_changes_all_the_time_is_refused_and_may_be_tried_again(s3, monkeypatch):
    place = f"{s3}/a.mp4"
    storage.write_bytes(place, bytes(20 << 20))
    (entry,) = list_sources(s3, SETTINGS)
    read, turns = storage.read_range, itertools.count(1)

    def with_writer(uri, *words, **named):
        if uri == place:
            storage.write_bytes(place, bytes([next(turns)]) * (20 << 20))
        return read(uri, *words, **named)

    monkeypatch.setattr(storage, "read_range", with_writer)
    fault = fault_of(entry)
    assert (fault.reason, fault.retryable) == ("changed_while_read", True)
    assert next(turns) == SETTINGS.attempts + 1


def test_an_object_never_has_parts_of_two_versions(s3, monkeypatch):
    place = f"{s3}/a.mp4"
    storage.write_bytes(place, b"a" * (20 << 20))
    (entry,) = list_sources(s3, SETTINGS)
    read, turns = storage.read_range, itertools.count()

    def with_writer(uri, *words, **named):
        if next(turns) == 1:
            storage.write_bytes(place, b"b" * (20 << 20))
        return read(uri, *words, **named)

    monkeypatch.setattr(storage, "read_range", with_writer)
    with fetched(entry, SETTINGS) as media:
        assert set(media.data) == {ord("b")}


def test_a_file_that_is_gone_is_missing(root):
    storage.write_bytes(storage.join(root, "a.mp4"), b"1")
    (entry,) = list_sources(root, SETTINGS)
    storage.delete(storage.join(root, "a.mp4"))
    fault = fault_of(entry)
    assert fault.retryable
    assert "no such file" in fault.message


def test_an_empty_file_is_refused_for_good(root):
    storage.write_bytes(storage.join(root, "a.mp4"), b"")
    (entry,) = list_sources(root, SETTINGS)
    fault = fault_of(entry)
    assert (fault.reason, fault.retryable) == ("empty_file", False)


def test_a_file_over_the_limit_is_refused_without_reading(root):
    storage.write_bytes(storage.join(root, "a.mp4"), bytes(3 << 20))
    (entry,) = list_sources(root, SETTINGS)
    fault = fault_of(entry, limit_bytes=2 << 20)
    assert (fault.reason, fault.retryable) == ("too_large", False)
    assert "3 MiB, at most 2 MiB" in fault.message


def test_a_refused_entry_is_not_read():
    fault = fault_of(refused("/etc/hostname", "root", "outside", "leads out"))
    assert (fault.reason, fault.message, fault.retryable) == ("outside", "leads out", False)


@pytest.mark.parametrize("there", [True, False])
def test_an_object_nobody_asked_about_is_read(s3, there):
    if there:
        storage.write_bytes(f"{s3}/a.mp4", b"1")
    entry = SourceEntry(f"{s3}/a.mp4", "root", "?", f"{s3}/a.mp4")
    if there:
        with fetched(entry, SETTINGS) as media:
            assert media.data == b"1"
    else:
        assert fault_of(entry).reason == "missing"


def test_a_missing_bucket_stops_the_run(s3):
    entry = SourceEntry(
        "s3://no-such-bucket/a", "root", "5 tag", "s3://no-such-bucket/a", 0, ALL, 5
    )
    with pytest.raises(ServiceError, match="no such bucket"), fetched(entry, SETTINGS):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_temporary_folder_is_no_fault_of_the_source(s3, monkeypatch):
    storage.write_bytes(f"{s3}/a.mp4", bytes(1 << 20))
    (entry,) = list_sources(s3, SETTINGS)
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *words, **named: opened(
            Path("/dev/full") if path.name == "media" else path, *words, **named
        ),
    )
    with pytest.raises(DataError, match=r"TMPDIR") as fault, fetched(entry, SETTINGS):
        pass
    assert not isinstance(fault.value, FetchError)


def test_a_temporary_folder_that_is_gone_is_no_fault_of_the_source(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (entry,) = list_sources(str(tmp_path), SETTINGS)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    told = pytest.raises(ScratchError, match="gone: temporary files cannot be written")
    with told, fetched(entry, SETTINGS):
        pass
    with pytest.raises(ScratchError), Sink(tmp_path / "gone" / "x" / "media"):
        pass


def test_a_fetch_fault_travels_between_processes():
    fault = pickle.loads(pickle.dumps(FetchError("timeout", "too slow", False)))
    assert (fault.reason, fault.message, fault.retryable) == ("timeout", "too slow", False)
