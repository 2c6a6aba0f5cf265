"""Media shards: byte ranges, checks, and a full disk."""

import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import storage
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.media import ShardWriter, read_media, write_shard


@pytest.fixture(params=["local", "s3"])
def dataset(request, tmp_path):
    root = str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3")
    return Dataset.open(root, create=True)


def test_a_clip_is_read_by_its_byte_range(dataset):
    blobs = [b"first", b"", b"third" * 70_000]
    refs = write_shard(dataset, [(f"clip{i}", blob) for i, blob in enumerate(blobs)])
    for ref, blob in zip(refs, blobs, strict=True):
        found = storage.read_range(dataset.uri(ref.media_file), ref.media_offset, ref.media_length)
        assert found == blob
        assert read_media(dataset.root, ref.columns()) == blob


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_any_bytes_come_back(tmp_path, blobs):
    dataset = Dataset.open(str(tmp_path / "data"), create=True)
    refs = write_shard(dataset, [("same", blob) for blob in blobs])
    assert [read_media(dataset.root, ref.columns()) for ref in refs] == blobs


def test_a_wrong_offset_falls_back_to_the_parquet_reader(dataset):
    (ref,) = write_shard(dataset, [("a", b"the clip")])
    row = ref.columns() | {"media_offset": 0}
    assert read_media(dataset.root, row) == b"the clip"


def test_changed_bytes_are_a_media_mismatch(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    (ref,) = write_shard(dataset, [("a", b"the clip")])
    path = tmp_path / ref.media_file
    data = bytearray(path.read_bytes())
    data[ref.media_offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"media_mismatch.*restore the file"):
        read_media(dataset.root, ref.columns())


def test_a_shard_that_is_gone_is_named(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    (ref,) = write_shard(dataset, [("a", b"the clip")])
    (tmp_path / ref.media_file).unlink()
    with pytest.raises(DataError, match="no such file"):
        read_media(dataset.root, ref.columns())


def test_two_calls_never_share_a_shard(tmp_path):
    dataset = Dataset.open(str(tmp_path), create=True)
    first, second = (write_shard(dataset, [("a", b"x")])[0] for _ in range(2))
    assert first.media_file != second.media_file


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """A file size limit of the operating system stands in for the end of the disk."""
    program = f"""
        import resource
        from infra.errors import DataError
        from infra.store.dataset import Dataset
        from infra.store.media import write_shard
        dataset = Dataset.open({str(tmp_path)!r}, create=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_shard(dataset, [("a", bytes(1_000_000))])
        except DataError as fault:
            raise SystemExit(str(fault))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "free space" in done.stderr
    assert list((tmp_path / "media").iterdir()) == []


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    blobs=st.lists(st.binary(max_size=3000) | st.just(bytes(2_500_000)), max_size=8),
    max_bytes=st.integers(1, 6000),
)
def test_clips_written_one_by_one_lie_where_their_rows_say(tmp_path, blobs, max_bytes):
    dataset = Dataset.open(str(tmp_path / "data"), create=True)
    with ShardWriter(dataset, max_bytes) as shards:
        for index, blob in enumerate(blobs):
            shards.add(f"clip{index}", blob)
        refs = shards.finish()
    for ref, blob in zip(refs, blobs, strict=True):
        uri = dataset.uri(ref.media_file)
        assert storage.read_range(uri, ref.media_offset, ref.media_length) == blob
        assert read_media(dataset.root, ref.columns() | {"media_offset": 0}) == blob
    for name in {ref.media_file for ref in refs}:
        sizes = [ref.media_length for ref in refs if ref.media_file == name]
        assert sum(sizes) <= max_bytes or len([size for size in sizes if size]) == 1
        rows = [ref.media_row for ref in refs if ref.media_file == name]
        assert rows == list(range(len(rows)))


def test_a_full_shard_is_followed_by_another(dataset):
    with ShardWriter(dataset, max_bytes=10) as shards:
        for index in range(5):
            shards.add(f"clip{index}", b"12345")
        refs = shards.finish()
    names = list(dict.fromkeys(ref.media_file for ref in refs))
    assert [sum(ref.media_file == name for ref in refs) for name in names] == [2, 2, 1]
    lie_there = sorted(info.uri for info in storage.list_files(dataset.uri("media")))
    assert lie_there == sorted(dataset.uri(name) for name in names)
    path = storage.read_bytes(dataset.uri(names[0]))
    found = pq.read_table(pa.BufferReader(path)).to_pylist()
    assert found == [{"clip_id": f"clip{index}", "media": b"12345"} for index in range(2)]


def test_nothing_is_left_of_a_writer_that_did_not_finish(dataset):
    with ShardWriter(dataset, max_bytes=10) as shards:
        for index in range(5):
            shards.add(f"clip{index}", b"12345")
        assert list(storage.list_files(dataset.uri("media")))
    assert list(storage.list_files(dataset.uri("media"))) == []


def test_a_writer_without_clips_writes_nothing(dataset):
    with ShardWriter(dataset, max_bytes=10) as shards:
        assert shards.finish() == []
    assert list(storage.list_files(dataset.uri("media"))) == []


def test_a_shard_of_many_clips_needs_the_memory_of_one(tmp_path):
    program = f"""
        import resource
        from infra.store.dataset import Dataset
        from infra.store.media import ShardWriter
        dataset = Dataset.open({str(tmp_path)!r}, create=True)
        clip = bytes(4 << 20)
        with ShardWriter(dataset, max_bytes=1 << 30) as shards:
            shards.add("first", clip)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for index in range(60):
                shards.add(str(index), clip)
            shards.finish()
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        raise SystemExit(f"grown MiB: {{grown_kib >> 10}}")
    """
    words = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said, _, grown_mib = done.stderr.partition("grown MiB: ")
    assert said == ""
    assert int(grown_mib) <= 24  # for 240 MiB of clips
