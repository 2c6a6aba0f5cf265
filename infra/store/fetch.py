"""The bytes of clips, fetched ahead by threads while earlier ones are decoded.

A clip is one byte range of a shard. On a local disk it is read in place; from S3 it passes through
a bounded folder that all processes of the node share. What comes back has been checked against its
CRC32C. The caller knows what it will ask for and says so in time:

    fetcher = Fetcher(root, DiskCache(folder, limit_bytes), threads=4)
    fetcher.ahead(rows)
    data = fetcher.get(rows[0])
"""

import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from infra import storage
from infra.errors import ServiceError
from infra.store import media
from infra.store.cache import DiskCache

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

_RETRIES_S = (0.5, 2.0, 8.0)


class Fetcher:
    """Reads clips of one dataset; pickles without what it has fetched."""

    def __init__(self, root: str, cache: DiskCache | None, threads: int, limit: int) -> None:
        """Fetch nothing yet.

        Args:
            root: The dataset's root URI.
            cache: Where clips from S3 are kept on this node; none are without it.
            threads: Ranges read at once; 0 reads when asked.
            limit: Clips that may lie fetched and not yet asked for.
        """
        self._root = root
        self._cache = cache if storage.is_s3(root) else None
        self._threads, self._limit = threads, limit
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[str, Future[bytes]] = {}

    def __reduce__(self) -> tuple[type["Fetcher"], tuple[str, DiskCache | None, int, int]]:
        return type(self), (self._root, self._cache, self._threads, self._limit)

    def ahead(self, rows: Iterable[Row]) -> None:
        """Begin to fetch what will be asked for next, in that order; forget what else was begun."""
        if not self._threads:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fetch")
        wanted = {_key(row): row for row in rows}
        for key in self._coming.keys() - wanted.keys():  # not asked for: a substitute came instead
            self._coming.pop(key).cancel()
        for key, row in wanted.items():
            if len(self._coming) >= self._limit:
                break
            if key not in self._coming:
                self._coming[key] = self._pool.submit(self._read, dict(row))

    def get(self, row: Row) -> bytes:
        """Return a clip's bytes.

        Raises:
            DataError: The shard does not hold what the row says, or is gone.
            ServiceError: S3 does not answer, also not when asked again.
        """
        found = self._coming.pop(_key(row), None)
        return found.result() if found is not None else self._read(row)

    def _read(self, row: Row) -> bytes:
        for pause_s in _RETRIES_S:
            try:
                return self._read_once(row)
            except ServiceError as fault:
                log.warning("read again after seconds=%.1f fault=%s", pause_s, fault)
                time.sleep(pause_s)
        return self._read_once(row)

    def _read_once(self, row: Row) -> bytes:
        if self._cache is None:
            return media.read_media(self._root, row)
        key = f"{self._root}/{_key(row)}"
        held = self._cache.get(key, row["media_length"], row["media_crc32c"])
        if held is not None:
            return held
        data = media.read_media(self._root, row)
        self._cache.put(key, data)
        return data


def _key(row: Row) -> str:
    return f"{row['media_file']}:{row['media_offset']}"
