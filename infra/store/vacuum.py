"""Find and delete what nothing in a dataset refers to any more.

That is: media shards of tasks that were killed before their clips were committed, data files of
tables that a compaction replaced or a killed writer left, temporary files and scratch folders. All
that a release pins stays, and so does whatever a reader or writer may hold that began within the
last hours: a table keeps the files of every version that was the newest at some moment since then.
Age is measured by the store's own clock, which is asked with a probe file.

    for one in find(dataset, older_than_h=24): remove(one)
"""

import itertools
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import deltalake.exceptions
import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import DataError
from infra.store import actions, uploads
from infra.store import release as releases
from infra.store.commits import data_files, open_table
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.schema import SCHEMAS, TableName
from infra.store.work import ALIVE

Kind = Literal["media", "table", "temporary", "work", "upload"]

_HOUR_NS = 3_600_000_000_000
_NEVER_NS = (1 << 63) - 1
_TEMPORARY = re.compile(r"(\..+\.tmp|_commit_.+\.tmp|_probe-[0-9a-f]{32})")
_COMMIT = re.compile(r"(\d{20})\.json")
_ROWS = 10_000
_LISTED_TYPES: dict[str, pa.DataType] = {
    "name": pa.string(),
    "size_bytes": pa.int64(),
    "modified_ns": pa.int64(),
}
_LISTED = pa.schema(_LISTED_TYPES)


@dataclass(frozen=True)
class Garbage:
    """A file that nothing refers to."""

    kind: Kind
    uri: str
    size_bytes: int
    upload_id: str = ""
    """Of an upload to S3 that was begun and not ended; its size is not known."""


def remove(garbage: Garbage) -> None:
    """Delete what was found; what is gone already is no error."""
    if garbage.upload_id:
        uploads.abort(garbage.uri, garbage.upload_id)
    else:
        storage.delete(garbage.uri)


def find(dataset: Dataset, older_than_h: float) -> Iterator[Garbage]:
    """Yield what nothing refers to and was last touched before that many hours.

    Raises:
        DataError: A release cannot be understood, so that nobody knows what it pins; or its
            versions are gone.
    """
    cutoff_ns = store_time_ns(dataset) - int(older_than_h * _HOUR_NS)
    with tempfile.TemporaryDirectory(prefix="snapvideo-vacuum-") as scratch:
        listing = Path(scratch, "media.parquet")
        _spool(dataset, listing)  # before the tables are read: what is committed meanwhile is used
        pinned = _pinned(dataset)
        for table in SCHEMAS:
            yield from _table_garbage(dataset, table, pinned[table], cutoff_ns)
        yield from _media_garbage(dataset, listing, pinned["clips"], cutoff_ns)
    yield from _strays(dataset, cutoff_ns)
    for one in uploads.unfinished(dataset.uri("")):
        if one.begun_ns < cutoff_ns:
            yield Garbage("upload", one.uri, 0, one.upload_id)


def orphans(dataset: Dataset) -> tuple[int, int]:
    """Return how many media shards no clip refers to, of any age, and their bytes."""
    with tempfile.TemporaryDirectory(prefix="snapvideo-vacuum-") as scratch:
        listing = Path(scratch, "media.parquet")
        _spool(dataset, listing)
        num, size_bytes = 0, 0
        for one in _media_garbage(dataset, listing, (), _NEVER_NS):
            num, size_bytes = num + 1, size_bytes + one.size_bytes
        return num, size_bytes


def store_time_ns(dataset: Dataset) -> int:
    """Return the time of the store's own clock, which stamps its files.

    Raises:
        DataError: The dataset cannot be written.
        ServiceError: S3 does not answer, or refuses.
    """
    probe = dataset.uri(f"_probe-{uuid.uuid4().hex}")
    storage.write_bytes(probe, b"")
    try:
        files, path = storage.filesystem(probe)
        return int(files.get_file_info(path).mtime_ns or 0)
    except OSError as fault:
        raise storage.explain(probe, fault) from fault
    finally:
        storage.delete(probe)


def _pinned(dataset: Dataset) -> dict[TableName, set[int]]:
    """Return the versions that releases need."""
    found: dict[TableName, set[int]] = {table: set() for table in SCHEMAS}
    for name in releases.names(dataset.root):
        for table, version in releases.load(dataset.root, name).versions.items():
            if version >= 0:
                found[table].add(version)
    return found


def _spool(dataset: Dataset, path: Path) -> None:
    """Write the listing of the media folder into a local file."""
    with pq.ParquetWriter(path, _LISTED) as writer:
        listed = storage.list_files(dataset.uri("media"))
        while infos := list(itertools.islice(listed, _ROWS)):
            rows = [
                {
                    "name": info.uri.removeprefix(dataset.uri("")),
                    "size_bytes": info.size_bytes,
                    "modified_ns": info.modified_ns,
                }
                for info in infos
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=_LISTED))


def _media_garbage(
    dataset: Dataset, listing: Path, pinned: Iterable[int], cutoff_ns: int
) -> Iterator[Garbage]:
    """Yield old shards that no clip refers to, now or in a release."""
    left = listing
    for version in sorted({*pinned, dataset.version("clips")}):
        sql = (
            "SELECT * FROM listed WHERE modified_ns < ? AND name LIKE '%.parquet' AND name NOT IN "
            "(SELECT DISTINCT media_file FROM clips WHERE media_file IS NOT NULL)"
        )
        target = left.with_name(f"left-{version}.parquet")
        with (
            query(dataset, sql, {"clips": version}, {"listed": left}, (cutoff_ns,)) as rows,
            pq.ParquetWriter(target, _LISTED) as writer,
        ):
            for batch in rows:
                writer.write_batch(batch.cast(_LISTED))
        left = target
    for batch in pq.ParquetFile(left).iter_batches():
        for row in batch.to_pylist():
            if not _is_temporary(row["name"]):
                yield Garbage("media", dataset.uri(row["name"]), row["size_bytes"])


def _table_garbage(
    dataset: Dataset, table: TableName, pinned: Iterable[int], cutoff_ns: int
) -> Iterator[Garbage]:
    """Yield old data files that no version refers to which may still be read."""
    uri = dataset.uri(table)
    infos = [info for info in storage.list_files(uri) if info.uri.endswith((".parquet", ".json"))]
    commits = {
        int(match[1]): info.modified_ns
        for info in infos
        if (match := _COMMIT.fullmatch(info.uri.rpartition("/_delta_log/")[2]))
    }
    if not commits:
        return
    first = max((v for v, at in commits.items() if at < cutoff_ns), default=min(commits))
    kept = _added_since(dataset, table, first)
    for version in {*pinned, first}:
        kept |= _files(dataset, table, version)
    for info in infos:
        name = info.uri.removeprefix(f"{uri}/")
        data = name.endswith(".parquet") and not name.startswith("_delta_log/")
        if data and name not in kept and info.modified_ns < cutoff_ns:
            yield Garbage("table", info.uri, info.size_bytes)


def _files(dataset: Dataset, table: TableName, version: int) -> set[str]:
    """Return the names of the data files of one version."""
    uri = dataset.uri(table)
    try:
        return set(data_files(uri, open_table(dataset.root, table, version)))
    except (DataError, deltalake.exceptions.TableNotFoundError) as fault:
        raise DataError(
            f"{uri}: version {version} cannot be read ({fault}), so what it needs "
            "is not known; restore its log, or remove the release that pins it"
        ) from fault


def _added_since(dataset: Dataset, table: TableName, version: int) -> set[str]:
    """Return the data files that later commits added."""
    found: set[str] = set()
    for _, later in actions.since(dataset.uri(table), version):
        found |= actions.names(later, "add")
    return found


def _strays(dataset: Dataset, cutoff_ns: int) -> Iterator[Garbage]:
    """Yield temporary files of writers that were killed, and scratch folders."""
    below, kept = dataset.uri(""), "/"
    for info in storage.list_files(dataset.root):
        name = info.uri.removeprefix(below)
        if info.modified_ns >= cutoff_ns:
            kept = name.removesuffix(ALIVE) if name.endswith(f"/{ALIVE}") else kept
            continue
        if name.startswith(kept):
            continue
        if name.startswith("work/"):
            yield Garbage("work", info.uri, info.size_bytes)
        elif _is_temporary(name):
            yield Garbage("temporary", info.uri, info.size_bytes)


def _is_temporary(name: str) -> bool:
    return bool(_TEMPORARY.fullmatch(name.rpartition("/")[2]))
