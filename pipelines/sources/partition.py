"""How sources are grouped: by folder, by day or by a share of their names."""

import datetime as dt
import hashlib
import re

from pipelines.sources.config import SourceSettings

LOOSE = "root"
UNDATED = "undated"
_MOST_LETTERS = 255

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def of_file(below: str, modified_ns: int, settings: SourceSettings, tar: str = "") -> str:
    """Return the partition of a file.

    Args:
        below: Its path below the source.
        modified_ns: When it, or the tar that holds it, was last changed; 0: not known.
        settings: How sources are grouped.
        tar: Name of the tar that holds it.
    """
    if settings.partition_by == "date":
        return day_of(modified_ns)
    if settings.partition_by == "shard":
        return tar or _share(below, settings.num_shards)
    first, slash, _ = below.partition("/")
    return first if slash else LOOSE


def of_row(uri: str, below: str, date: str, settings: SourceSettings) -> str:
    """Return the partition of a manifest's row.

    Args:
        uri: What the row names.
        below: Its path below the manifest's folder; empty where it lies elsewhere.
        date: What the row's date column holds.
        settings: How sources are grouped.
    """
    if settings.partition_by == "date":
        return date[:10] if _DAY.match(date) else UNDATED
    if settings.partition_by == "shard":
        return _share(uri, settings.num_shards)
    return of_file(below, 0, settings)


def is_name(name: str) -> bool:
    """Return whether a partition may be called so; folders and files are named after it."""
    return name not in ("", ".", "..") and "/" not in name and len(name) <= _MOST_LETTERS


def day_of(modified_ns: int) -> str:
    """Return the UTC day of a time, `undated` where it is not known."""
    if modified_ns <= 0:
        return UNDATED
    return dt.datetime.fromtimestamp(modified_ns / 1e9, dt.UTC).date().isoformat()


def _share(name: str, num_shards: int) -> str:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % num_shards
    return f"shard-{number:05d}"
