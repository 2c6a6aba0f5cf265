"""A bounded folder of things fetched from S3, shared by all processes of a node.

Every entry is a file of its own, named by the hash of its key, and whoever reads one checks it
against a checksum, so a half-written or damaged entry is only a miss. Room is made before a byte
is written, under one lock for the node: the files never take more than the limit, also while
others write and after any of them was killed. What was used longest ago goes first.

    cache = DiskCache(folder(""), limit_bytes=20 << 30)
    data = cache.get(key, length, crc32c)        # None where it is not there
    cache.put(key, data)
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from infra.errors import ConfigError

log = logging.getLogger(__name__)

_ROOMY = 0.9  # clearing goes down to this share, so that not every entry asks for one


def folder(setting: str) -> Path:
    """Return the folder for what is fetched, made where it is not there yet.

    Args:
        setting: A local path; empty: `snapvideo` in the user's cache folder.

    Raises:
        ConfigError: It cannot be made.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    path = (Path(setting) if setting else home / "snapvideo").expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(
            f"reader.disk_cache: {path} cannot be made ({fault.strerror}); name a folder that "
            "this process may write"
        ) from fault
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other threads and processes of the node respect; it dies with its holder."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class DiskCache:
    """Entries below `path`; small to pickle, and safe to use from many processes at once."""

    path: Path
    limit_bytes: int

    def get(self, key: str, length: int, crc32c: int) -> bytes | None:
        """Return an entry's bytes, or None where it is missing or is not what it should be."""
        file = self._file(key)
        try:
            data = file.read_bytes()
        except OSError:
            return None
        if len(data) != length or google_crc32c.value(data) != crc32c:
            log.warning("cache entry is damaged and fetched again file=%s", file)
            file.unlink(missing_ok=True)
            return None
        with contextlib.suppress(FileNotFoundError):  # cleared by another process in between
            os.utime(file)
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep an entry; a disk that is full or may not be written only costs the entry."""
        file = self._file(key)
        if len(data) > self.limit_bytes or file.exists():
            return
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path / "lock"):
                self._reserve(temporary, len(data))
            with temporary.open("r+b") as sink:
                sink.write(data)
            temporary.replace(file)
        except OSError as fault:
            log.warning("not cached file=%s fault=%s", file, fault.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink()

    def size_bytes(self) -> int:
        """Return the size of all entries, those being written included."""
        return sum(size for _, size, _ in self._entries())

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.path / "clips" / name[:2] / name[2:]

    def _reserve(self, file: Path, length: int) -> None:
        """Make an empty file of that length once there is room; the lock is held."""
        held = self._held()
        if held + length > self.limit_bytes:
            held = self._clear(int(_ROOMY * self.limit_bytes) - length)
        # Counted before it is there: who is killed in between leaves a count that is too high,
        # which the next clearing sets right.
        (self.path / "held").write_text(str(held + length))
        with file.open("wb") as sink:
            os.truncate(sink.fileno(), length)

    def _held(self) -> int:
        try:
            return int((self.path / "held").read_text())
        except (FileNotFoundError, ValueError):  # never counted, or its writer was killed
            return self.size_bytes()

    def _clear(self, target: int) -> int:
        """Remove what was used longest ago until at most `target` bytes are left; return those."""
        entries = sorted(self._entries())
        left = sum(size for _, size, _ in entries)
        for _, size, name in entries:
            if left <= max(0, target):
                break
            Path(name).unlink(missing_ok=True)
            left -= size
        log.info("cache cleared folder=%s left_mib=%d", self.path, left >> 20)
        return left

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """Yield when each entry was used last, its size and its path."""
        for below, _, names in os.walk(self.path / "clips"):
            for name in names:
                entry = os.path.join(below, name)  # noqa: PTH118 - twice as fast, 100,000 of them
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(entry)  # noqa: PTH116 - as above
                    yield found.st_mtime_ns, found.st_size, entry
