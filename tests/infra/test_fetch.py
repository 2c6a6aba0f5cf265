"""Bytes of clips: fetched ahead, checked, and asked for again where S3 does not answer."""

import pickle
import threading
import time

import pytest

from infra import storage
from infra.errors import DataError, ServiceError
from infra.store import fetch, media
from infra.store.cache import DiskCache
from infra.store.dataset import Dataset
from infra.store.fetch import Fetcher


def shard(root, count=6):
    """A shard of clips, and rows that say where they lie."""
    dataset = Dataset.open(root, create=True)
    data = [bytes([number]) * (100 + number) for number in range(count)]
    refs = media.write_shard(dataset, [(str(n), d) for n, d in enumerate(data)])
    rows = [{"clip_id": str(n), **ref.columns()} for n, ref in enumerate(refs)]
    return dataset.root, rows, data


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_bytes_are_the_clips_whether_fetched_ahead_or_not(tmp_path, threads):
    root, rows, data = shard(str(tmp_path / "d"))
    fetcher = Fetcher(root, None, threads, limit=3)
    for turn, row in enumerate(rows):
        fetcher.ahead(rows[turn:])
        assert fetcher.get(row) == data[turn]


def test_what_is_fetched_and_not_asked_for_is_bounded(tmp_path):
    root, rows, _ = shard(str(tmp_path / "d"))
    fetcher = Fetcher(root, None, 2, limit=2)
    for _ in range(3):
        fetcher.ahead(rows)
        assert len(fetcher._coming) == 2
    fetcher.ahead(rows[4:])
    assert fetcher._coming.keys() == {fetch._key(row) for row in rows[4:]}


def test_fetching_goes_on_while_the_caller_is_busy(tmp_path, monkeypatch):
    root, rows, data = shard(str(tmp_path / "d"))
    read, done = media.crc32c, threading.Barrier(4, timeout=20)

    def slow(content):
        done.wait()  # only passes when three threads read at once and the caller is here
        return read(content)

    monkeypatch.setattr(media, "crc32c", slow)
    fetcher = Fetcher(root, None, 3, limit=3)
    fetcher.ahead(rows[:3])
    done.wait()
    assert [fetcher.get(row) for row in rows[:3]] == data[:3]


def test_a_range_that_is_not_the_clip_is_a_fault(tmp_path):
    root, rows, _ = shard(str(tmp_path / "d"))
    fetcher = Fetcher(root, None, 1, limit=2)
    wrong = rows[0] | {"media_crc32c": 1}
    fetcher.ahead([wrong])
    with pytest.raises(DataError, match="media_mismatch"):
        fetcher.get(wrong)
    with pytest.raises(DataError, match="media_mismatch"):
        fetcher.get(rows[0] | {"media_file": "media/gone.parquet"})


def test_a_shift_of_the_range_is_mended_by_reading_as_parquet(tmp_path):
    root, rows, data = shard(str(tmp_path / "d"))
    assert Fetcher(root, None, 0, 0).get(rows[2] | {"media_offset": 5}) == data[2]


def test_it_travels_without_what_it_holds(tmp_path):
    root, rows, data = shard(str(tmp_path / "d"))
    fetcher = Fetcher(root, DiskCache(tmp_path, 10), 2, limit=4)
    fetcher.ahead(rows)
    sent = pickle.loads(pickle.dumps(fetcher))
    assert sent.get(rows[1]) == data[1]


def test_clips_of_s3_lie_in_the_cache_afterwards(s3, tmp_path):
    root, rows, data = shard(f"{s3}/d")
    cache = DiskCache(tmp_path, 1 << 20)
    fetcher = Fetcher(root, cache, 2, limit=4)
    fetcher.ahead(rows)
    assert [fetcher.get(row) for row in rows] == data
    assert cache.size_bytes() == sum(map(len, data))
    storage.delete(f"{root}/media")
    assert [Fetcher(root, cache, 0, 0).get(row) for row in rows] == data
    with pytest.raises(DataError):
        Fetcher(root, None, 0, 0).get(rows[0])


def test_where_s3_does_not_answer_it_is_asked_again_and_then_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fetch, "_RETRIES_S", (0.0, 0.0))
    _, rows, data = shard(str(tmp_path / "d"))
    answers = [ServiceError("s3://b: does not answer")] * 2 + [data[0]]

    def read_media(root, row):
        answer = answers.pop(0)
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    monkeypatch.setattr(media, "read_media", read_media)
    fetcher = Fetcher("s3://bucket/d", None, 0, 0)
    assert fetcher.get(rows[0]) == data[0]
    assert caplog.text.count("read again") == 2
    answers += [ServiceError("s3://b: does not answer")] * 3
    with pytest.raises(ServiceError, match="does not answer"):
        fetcher.get(rows[0])


def test_a_server_that_is_killed_is_a_fault_of_the_service(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_RETRIES_S", (0.0,))
    root, rows, _ = shard(f"{s3}/d")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(ServiceError):
        Fetcher(root, None, 0, 0).get(rows[0])
    assert time.monotonic() - begun < 60
