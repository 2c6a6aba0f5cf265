"""Join the many small data files of a dataset's tables into few.

Rows and their order stay, so every reader sees the same; earlier versions, which releases pin,
keep their files until `infra.store.vacuum` finds that nothing needs them. Writers may append
meanwhile, and of two compactions at once each file is taken by one. Media shards are not touched.
A checkpoint of the log follows, so that opening a table reads few files (the table library writes
one every hundred commits by itself).
"""

import logging
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from infra import storage
from infra.errors import DataError
from infra.store import actions
from infra.store.commits import ROW_GROUP_ROWS, check_store, faults, open_table
from infra.store.dataset import Dataset
from infra.store.schema import SCHEMAS, TableName

log = logging.getLogger(__name__)

_MIB = 1 << 20
_GROUP_BYTES = 64 * _MIB


@dataclass(frozen=True)
class Compacted:
    """What became of one table; no file where there was nothing to join."""

    table: TableName
    version: int
    num_files_removed: int = 0
    num_files_added: int = 0
    num_files: int = 0
    """Data files that the table has now."""


@dataclass(frozen=True)
class _File:
    path: str
    size_bytes: int
    num_rows: int


def compact(dataset: Dataset, table: TableName, target_mib: int = 128) -> Compacted:
    """Join the table's small files into files of about `target_mib`; return what that gave.

    Raises:
        DataError: The disk is full, a data file is gone, or another program made of the table
            what this one cannot rewrite.
        ServiceError: S3 does not answer, or would lose commits.
    """
    if dataset.version(table) < 0:
        return Compacted(table, -1)
    check_store(dataset.root)
    found = open_table(dataset.root, table)
    _check_plain(found, dataset.uri(table), table)
    done = Compacted(table, found.version())
    for files in _bins(_files(found), target_mib * _MIB):
        version = _join(dataset, table, done.version, files)
        if version is None:
            log.info("another compaction took the files table=%s files=%d", table, len(files))
            continue
        done = replace(
            done,
            version=version,
            num_files_removed=done.num_files_removed + len(files),
            num_files_added=done.num_files_added + 1,
        )
    found = open_table(dataset.root, table)
    with faults(dataset.uri(table)):
        if done.num_files_added:
            found.create_checkpoint()
        return replace(done, version=found.version(), num_files=len(found.file_uris()))


def _check_plain(found: deltalake.DeltaTable, uri: str, table: TableName) -> None:
    protocol = found.protocol()
    strange = sorted({field.name for field in found.schema().fields} - set(SCHEMAS[table].names))
    if strange:
        raise DataError(
            f"{uri}: another program gave the table columns {strange}, which would be lost when it "
            "is rewritten; compact it with that program"
        )
    if protocol.min_reader_version > 1 or found.metadata().partition_columns:
        raise DataError(
            f"{uri}: another program gave the table features (protocol "
            f"{protocol.min_reader_version}/{protocol.min_writer_version}) that are not kept when "
            "it is rewritten; compact it with that program"
        )


def _files(found: deltalake.DeltaTable) -> list[_File]:
    """Return the table's data files, oldest first."""
    rows = pa.table(found.get_add_actions()).select(
        ["modification_time", "path", "size_bytes", "num_records"]
    )
    return [
        _File(urllib.parse.unquote(row["path"]), row["size_bytes"], row["num_records"] or 0)
        for row in sorted(rows.to_pylist(), key=lambda row: (row["modification_time"], row["path"]))
    ]


def _bins(files: list[_File], target_bytes: int) -> Iterator[list[_File]]:
    """Yield neighbours that fit into one file together; a large file is left alone."""
    held: list[_File] = []
    size_bytes = 0
    for file in files:
        if held and size_bytes + file.size_bytes > target_bytes:
            if len(held) > 1:
                yield held
            held, size_bytes = [], 0
        held.append(file)
        size_bytes += file.size_bytes
    if len(held) > 1:
        yield held


def _join(dataset: Dataset, table: TableName, version: int, files: list[_File]) -> int | None:
    """Write the rows of some files into one and commit that; None where they are taken."""
    uri = dataset.uri(table)
    name = f"part-00000-{uuid.uuid4()}-c000.zstd.parquet"
    with tempfile.TemporaryDirectory(prefix="snapvideo-compact-") as scratch:
        path = Path(scratch, name)
        with faults(uri):
            num_rows = _write(dataset, table, files, path)
        if num_rows != sum(file.num_rows for file in files):
            raise DataError(
                f"{uri}: {len(files)} data files hold {num_rows} rows, their log says "
                f"{sum(file.num_rows for file in files)}; see `snapvideo dataset verify`"
            )
        size_bytes = path.stat().st_size
        storage.upload(path, storage.join(uri, name))
    stats = f'{{"numRecords":{num_rows}}}'
    rewrite = actions.Rewrite(
        removed=[_action(file.path, file.size_bytes) for file in files],
        added=[_action(name, size_bytes) | {"stats": stats}],
        operation="OPTIMIZE",
    )
    made = actions.commit(uri, version, rewrite)
    if made is None:
        storage.delete(storage.join(uri, name))
    return made


def _write(dataset: Dataset, table: TableName, files: list[_File], path: Path) -> int:
    """Write the rows of some files into a local file, in order; return how many."""
    system, below = storage.filesystem(dataset.uri(table))
    paths = [f"{below}/{file.path}" for file in files]
    rows = pads.dataset(paths, schema=SCHEMAS[table], filesystem=system, format="parquet")
    num_rows = 0
    with pq.ParquetWriter(path, SCHEMAS[table], compression="zstd") as writer:
        for group in _groups(rows.to_batches(batch_readahead=2, fragment_readahead=1)):
            num_rows += len(group)
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
    return num_rows


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join batches to row groups: small files would give as many small groups."""
    held: list[pa.RecordBatch] = []
    num_bytes = num_rows = 0
    for batch in batches:
        held.append(batch)
        num_bytes, num_rows = num_bytes + batch.nbytes, num_rows + len(batch)
        if num_bytes > _GROUP_BYTES or num_rows >= ROW_GROUP_ROWS:
            yield pa.Table.from_batches(held)
            held, num_bytes, num_rows = [], 0, 0
    if held:
        yield pa.Table.from_batches(held)


def _action(path: str, size_bytes: int) -> dict[str, Any]:
    return {"path": urllib.parse.quote(path), "size": size_bytes}
