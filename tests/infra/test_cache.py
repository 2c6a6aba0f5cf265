"""The node's cache of fetched clips: bounded, checked, shared, and indifferent to kills."""

import os
import random
import signal
import subprocess
import sys
import time

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from infra.store import cache
from infra.store.cache import DiskCache

FILL = """
import sys, random
from pathlib import Path
from infra.store.cache import DiskCache
cache = DiskCache(Path(sys.argv[1]), int(sys.argv[2]))
source = random.Random(sys.argv[3])
print("begun", flush=True)
while True:
    key = source.randrange(500)
    cache.put(str(key), bytes([key % 256]) * (1000 + key))
"""


def get(held, key, data):
    return held.get(key, len(data), google_crc32c.value(data))


def kept(held):
    """The size of the files, by another way than the cache's own."""
    files = [file for file in (held.path / "clips").rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def test_what_was_put_comes_back(tmp_path):
    held = DiskCache(tmp_path, 1000)
    held.put("a", b"bytes of a")
    assert get(held, "a", b"bytes of a") == b"bytes of a"
    assert get(held, "b", b"bytes of b") is None


def test_a_damaged_entry_is_a_miss_and_is_gone(tmp_path, caplog):
    held = DiskCache(tmp_path, 1000)
    held.put("a", b"bytes of a")
    (file,) = [path for path in (tmp_path / "clips").rglob("*") if path.is_file()]
    file.write_bytes(b"bytes of b")
    assert get(held, "a", b"bytes of a") is None
    assert "damaged" in caplog.text
    assert not file.exists()


def test_what_was_used_longest_ago_goes_first(tmp_path):
    held = DiskCache(tmp_path, 100)
    for name in "abc":
        held.put(name, name.encode() * 30)
        time.sleep(0.01)
    get(held, "a", b"a" * 30)
    held.put("d", b"d" * 30)
    left = [name for name in "abcd" if get(held, name, name.encode() * 30)]
    assert left == ["a", "c", "d"]


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    held = DiskCache(tmp_path, 100)
    held.put("a", b"a" * 60)
    held.put("b", b"b" * 101)
    assert get(held, "b", b"b" * 101) is None
    assert get(held, "a", b"a" * 60) is not None


@settings(max_examples=30)
@given(st.integers(50, 5000), st.lists(st.tuples(st.integers(0, 20), st.integers(1, 900))))
def test_it_is_never_larger_than_its_limit(tmp_path_factory, limit, puts):
    held = DiskCache(tmp_path_factory.mktemp("cache"), limit)
    for key, size in puts:
        held.put(str(key), bytes(size))
        assert kept(held) == held.size_bytes() <= limit


def test_processes_that_are_killed_leave_it_whole_and_within_its_limit(tmp_path):
    limit, chance = 100_000, random.Random(0)
    held = DiskCache(tmp_path, limit)
    for turn in range(4):
        words = [sys.executable, "-c", FILL, str(tmp_path), str(limit)]
        writers = [
            subprocess.Popen([*words, f"{turn}{i}"], stdout=subprocess.PIPE) for i in range(3)
        ]
        try:
            for writer in writers:
                writer.stdout.readline()
            end = time.monotonic() + chance.uniform(0.2, 0.6)
            while time.monotonic() < end:
                # A walk beside a clearing would count what goes and what comes in its place.
                with cache.locked(tmp_path / "lock"):
                    assert held.size_bytes() <= limit
        finally:
            for writer in writers:
                os.kill(writer.pid, signal.SIGKILL)
                writer.wait()
                writer.stdout.close()
        assert kept(held) <= limit
    found = [key for key in range(500) if get(held, str(key), bytes([key % 256]) * (1000 + key))]
    assert len(found) > 10
    held.put("last", b"still works")
    assert get(held, "last", b"still works") == b"still works"


def test_a_folder_that_cannot_be_written_costs_only_the_entry(tmp_path, caplog):
    held = DiskCache(tmp_path, 1000)
    (tmp_path / "clips").write_text("a file where a folder should be")
    held.put("a", b"bytes")
    assert get(held, "a", b"bytes") is None
    assert "not cached" in caplog.text


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"reader\.disk_cache: .*file/below cannot be made"):
        cache.folder(str(tmp_path / "file" / "below"))
