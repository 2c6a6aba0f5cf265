"""One dataset: a root URI with immutable media and append-only Delta tables.

Everything that can change is a row in a table with a transaction log, so readers never see half
a commit and any earlier version can be read again. `dataset.json` names the layout's version.

    dataset = Dataset.open("s3://bucket/corpus", create=True)
    dataset.append("captions", [{"clip_id": ..., "text": ...}])
    dataset.read("captions", columns=["clip_id", "text"])
"""

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import deltalake
import deltalake.exceptions
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from infra import storage
from infra.errors import DataError, ServiceError
from infra.store.schema import FORMAT, SCHEMAS, TableName

Rows = pa.Table | Sequence[dict[str, Any]]

_MARKER = "dataset.json"
_CLOCKS = ("created_at", "at")  # filled with the time of the append where a row leaves them out


@dataclass(frozen=True)
class Dataset:
    """The tables and media below `root`; opened with `Dataset.open`, and small to pickle."""

    root: str

    @classmethod
    def open(cls, root_uri: str, create: bool = False) -> "Dataset":
        """Open the dataset at a root.

        Args:
            root_uri: A local folder or `s3://bucket/prefix`.
            create: Lay a new dataset where nothing lies yet.

        Raises:
            DataError: There is no dataset, or one of another layout version.
            ServiceError: S3 would lose commits (it ignores conditional puts).
        """
        root = storage.absolute(root_uri)
        marker = storage.join(root, _MARKER)
        if not storage.exists(marker):
            if not create:
                raise DataError(
                    f"{root}: no dataset lies here ({_MARKER} is missing); "
                    "check the path, or make one with `snapvideo ingest`"
                )
            _lay(root, marker)
        _check_format(root, storage.read_bytes(marker))
        return cls(root)

    def uri(self, *parts: str) -> str:
        """Return the URI of something below the root."""
        return storage.join(self.root, *parts)

    def version(self, table: TableName) -> int:
        """Return the table's newest version; -1 before its first commit."""
        found = self._table(table)
        return -1 if found is None else found.version()

    def read(
        self,
        table: TableName,
        version: int | None = None,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Return rows of a table.

        Args:
            table: Its name.
            version: An earlier version to read; -1 is the empty table before the first commit.
            columns: Which columns; all by default.
            where: Which rows; all by default.

        Raises:
            DataError: That version is gone.
        """
        schema = SCHEMAS[table]
        found = None if version == -1 else self._table(table, version)
        if found is None:
            empty = schema.empty_table()
            return empty.select(columns) if columns is not None else empty
        with _faults(self.uri(table)):
            files, path = storage.filesystem(self.uri(table))
            # Arrow's own files: its threads outlive a read, and with Python's they would still
            # want the interpreter when it ends ("terminate called", exit code 134).
            below = pafs.SubTreeFileSystem(path, files)
            return found.to_pyarrow_dataset(schema=schema, filesystem=below).to_table(
                columns=columns, filter=where
            )

    def append(self, table: TableName, rows: Rows) -> int:
        """Add rows in one commit and return the version that it made.

        Columns that are left out are null, except times (now) and captions' `commit_seq`.

        Raises:
            DataError: A row has a column that the table has not, or the disk is full.
        """
        uri, options = self.uri(table), storage.delta_options(self.root)
        found = self._table(table)
        with _faults(uri):
            if found is None:
                found = deltalake.DeltaTable.create(
                    uri, schema=SCHEMAS[table], mode="ignore", storage_options=options
                )
            data = _conformed(table, rows, commit_seq=found.version() + 1)
            deltalake.write_deltalake(found, data, mode="append")
        return self.version(table)

    def append_new(self, table: TableName, rows: Rows, key: tuple[str, ...]) -> int:
        """Add the rows whose key the table does not hold yet; return how many that were.

        Safe to repeat: what an earlier, interrupted call committed is not added again.
        """
        data = rows if isinstance(rows, pa.Table) else _conformed(table, rows, commit_seq=None)
        held = set(_keys(self.read(table, columns=list(key)), key))
        fresh: list[int] = []
        for index, value in enumerate(_keys(data, key)):
            if value not in held:
                held.add(value)
                fresh.append(index)
        if fresh:
            self.append(table, data.take(pa.array(fresh, pa.int64())))
        return len(fresh)

    def _table(self, table: TableName, version: int | None = None) -> deltalake.DeltaTable | None:
        uri = self.uri(table)
        try:
            with _faults(uri):
                return deltalake.DeltaTable(
                    uri, version=version, storage_options=storage.delta_options(self.root)
                )
        except deltalake.exceptions.TableNotFoundError:
            if version is not None:
                raise DataError(f"{uri}: version {version} is asked for, no table there") from None
            return None


def _lay(root: str, marker: str) -> None:
    strangers = [name for name in (*SCHEMAS, "media") if storage.exists(storage.join(root, name))]
    if strangers:
        raise DataError(
            f"{root}: holds {', '.join(strangers)} but no {_MARKER}, so its layout is not known; "
            "choose an empty folder (--output, --name)"
        )
    if storage.is_s3(root):
        storage.check_conditional_put(root)
    storage.create_exclusive(marker, json.dumps({"format": FORMAT}).encode())


def _check_format(root: str, marker: bytes) -> None:
    try:
        found = json.loads(marker)["format"]
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{root}/{_MARKER}: cannot be understood ({fault!r}); restore it, or choose another "
            "root (--output, --name)"
        ) from fault
    if found != FORMAT:
        raise DataError(
            f"{root}: dataset of format {found}, this version of snapvideo reads format {FORMAT}; "
            "choose another root (--output, --name), or run the snapvideo version that wrote it"
        )


def _conformed(table: TableName, rows: Rows, commit_seq: int | None) -> pa.Table:
    """Return rows with exactly the table's columns."""
    schema = SCHEMAS[table]
    given = rows if isinstance(rows, pa.Table) else _from_dicts(table, rows)
    unknown = sorted(set(given.column_names) - set(schema.names))
    if unknown:
        raise DataError(f"table {table}: no column {unknown}; it has {schema.names}")
    now = dt.datetime.now(dt.UTC)
    columns = []
    for field in schema:
        present = field.name in given.column_names
        column = given[field.name] if present else pa.nulls(len(given), field.type)
        if field.name in _CLOCKS:
            column = pc.fill_null(column.cast(field.type), pa.scalar(now, field.type))
        if field.name == "commit_seq" and commit_seq is not None:
            column = pa.array([commit_seq] * len(given), field.type)
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)


def _from_dicts(table: TableName, rows: Sequence[dict[str, Any]]) -> pa.Table:
    schema = SCHEMAS[table]
    unknown = sorted({name for row in rows for name in row} - set(schema.names))
    if unknown:
        raise DataError(f"table {table}: no column {unknown}; it has {schema.names}")
    return pa.Table.from_pylist(list(rows), schema=schema)


def _keys(rows: pa.Table, key: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in key), strict=True)


@contextlib.contextmanager
def _faults(uri: str) -> Iterator[None]:
    """Turn the table library's faults into ours, except that a table is not there."""
    try:
        yield
    except deltalake.exceptions.TableNotFoundError:
        raise
    except (deltalake.exceptions.DeltaError, OSError, pa.ArrowException) as fault:
        if storage.is_s3(uri):
            raise ServiceError(f"{uri}: the table cannot be used ({fault})") from fault
        raise DataError(
            f"{uri}: the table cannot be used ({fault}); check free space and rights"
        ) from fault
