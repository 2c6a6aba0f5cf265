"""One dataset: a root URI with immutable media and append-only Delta tables.

Everything that can change is a row in a table with a transaction log, so readers never see half
a commit and any earlier version can be read again. `dataset.json` names the layout's version.

    dataset = Dataset.open("s3://bucket/corpus", create=True)
    dataset.append("captions", [{"clip_id": ..., "text": ...}])   # a commit, whoever else writes
    dataset.read("captions", columns=["clip_id", "text"])
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import deltalake
import deltalake.exceptions
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from infra import storage
from infra.errors import DataError
from infra.store.commits import (
    Commit,
    Writer,
    attempts,
    check_store,
    faults,
    open_table,
    read_commit,
)
from infra.store.schema import FORMAT, SCHEMAS, TableName

if TYPE_CHECKING:
    from infra.store.keys import Keys

Rows = pa.Table | Sequence[dict[str, Any]]

_MARKER = "dataset.json"
_BATCH_ROWS = 1 << 14
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
            create: It is opened for writing: lay a new dataset where nothing lies yet, and
                bring one of an earlier layout up to this one.

        Raises:
            DataError: There is no dataset, or one of a newer layout.
            ServiceError: S3 would lose commits (it ignores conditional puts), or refuses.
        """
        root = storage.absolute(root_uri)
        marker = storage.join(root, _MARKER)
        if create:
            check_store(root)
        if not storage.exists(marker):
            if not create:
                raise DataError(
                    f"{root}: no dataset lies here ({_MARKER} is missing); "
                    "check the path, or make one with `snapvideo ingest`"
                )
            _lay(root, marker)
        if _format_of(root, storage.read_bytes(marker)) < FORMAT and create:
            storage.write_bytes(marker, _marker())
        return cls(root)

    def uri(self, *parts: str) -> str:
        """Return the URI of something below the root."""
        return storage.join(self.root, *parts)

    def version(self, table: TableName) -> int:
        """Return the table's newest version; -1 before its first commit."""
        found = self._table(table, None)
        return -1 if found is None else found.version()

    def history(self, table: TableName) -> list[Commit]:
        """Return what every commit of a table did, newest first."""
        uri, newest = self.uri(table), self.version(table)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda version: read_commit(uri, version), range(newest, -1, -1))
            return [commit for commit in found if commit is not None]

    def rows(self, table: TableName, version: int | None = None) -> pads.Dataset:
        """Return a table's rows, of which nothing is read yet.

        Args:
            table: Its name.
            version: An earlier version to read; -1 is the empty table before the first commit.

        Raises:
            DataError: That version is gone.
        """
        schema = SCHEMAS[table]
        found = None if version == -1 else self._table(table, version)
        if found is None:
            return pads.dataset(schema.empty_table())
        with faults(self.uri(table)):
            files, path = storage.filesystem(self.uri(table))
            # Arrow's own files: its threads outlive a read, and with Python's they would still
            # want the interpreter when it ends ("terminate called", exit code 134).
            below = pafs.SubTreeFileSystem(path, files)
            return found.to_pyarrow_dataset(schema=schema, filesystem=below)

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
            version: An earlier version to read (see `rows`).
            columns: Which columns; all by default.
            where: Which rows; all by default.

        Raises:
            DataError: That version is gone.
        """
        found = self.rows(table, version)
        with faults(self.uri(table)):
            return found.to_table(columns=columns, filter=where)

    def batches(
        self,
        table: TableName,
        version: int | None = None,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows of a table in batches, a few of which are held at once; see `read`."""
        found = self.rows(table, version)
        with faults(self.uri(table)):
            yield from found.to_batches(
                columns=columns,
                filter=where,
                batch_size=_BATCH_ROWS,
                batch_readahead=2,
                fragment_readahead=1,
            )

    def append(self, table: TableName, rows: Rows) -> int:
        """Add rows in one commit and return the version that it made.

        Columns that are left out are null, except times (now); `commit_seq` is the version.

        Raises:
            DataError: A row has a column that the table has not, or the disk is full.
        """
        writer, data = Writer(self.root, table), _conformed(table, rows)
        for _ in attempts(writer.uri):
            if writer.commit(_numbered(data, writer.version + 1)):
                break
            writer.refresh()
        return writer.version

    def append_new(self, table: TableName, rows: Rows, key: tuple[str, ...]) -> int:
        """Add the rows whose key the table does not hold yet; return how many that were.

        Safe to repeat, and with other writers at once. Only rows that may share a key with the
        given ones are read; for many calls in a row `append_once` reads less.
        """
        writer, data = Writer(self.root, table), _first_of_each(_conformed(table, rows), key)
        for _ in attempts(writer.uri):
            held = self._held(table, writer.version, data, key)
            mask = [value not in held for value in _values(data, key)]
            fresh = data.filter(pa.array(mask, pa.bool_()))
            if not len(fresh) or writer.commit(_numbered(fresh, writer.version + 1)):
                break
            writer.refresh()
        return len(fresh)

    def append_once(self, table: TableName, rows: Rows, keys: "Keys") -> pa.Table:
        """Add the rows whose key was not in the table before this call, and return them.

        Rows that share a new key are all added: they belong together. With several writers at
        once one of them adds a key's rows.

        Args:
            table: Its name.
            rows: What to add.
            keys: The table's keys; stays open between calls.
        """
        assert keys.table == table, f"keys of {keys.table} do not tell what {table} holds"
        data = _conformed(table, rows)
        for _ in attempts(keys.writer.uri):
            keys.refresh()
            fresh = _numbered(keys.missing(data), keys.writer.version + 1)
            if not len(fresh):
                break
            if keys.writer.commit(fresh):
                keys.committed(fresh)
                break
        return fresh

    def _held(
        self, table: TableName, version: int, rows: pa.Table, key: tuple[str, ...]
    ) -> set[tuple[Any, ...]]:
        """Return those keys of the rows that the table holds."""
        if not len(rows):
            return set()
        wanted = set(_values(rows, key))
        where = pc.scalar(True)
        for name in key:
            column = rows[name].unique()
            where &= pc.field(name).isin(column)
            if not column.null_count:  # the range lets whole files be passed over
                ends = pc.min_max(column)
                where &= (pc.field(name) >= ends["min"]) & (pc.field(name) <= ends["max"])
        found: set[tuple[Any, ...]] = set()
        for batch in self.batches(table, version, list(key), where):
            found.update(value for value in _values(batch, key) if value in wanted)
        return found

    def _table(self, table: TableName, version: int | None) -> deltalake.DeltaTable | None:
        try:
            return open_table(self.root, table, version)
        except deltalake.exceptions.TableNotFoundError:
            if version is not None:
                uri = self.uri(table)
                raise DataError(f"{uri}: version {version} is asked for, no table there") from None
            return None


def _lay(root: str, marker: str) -> None:
    strangers = [name for name in (*SCHEMAS, "media") if storage.exists(storage.join(root, name))]
    if strangers:
        raise DataError(
            f"{root}: holds {', '.join(strangers)} but no {_MARKER}, so its layout is not known; "
            "choose an empty folder (--output, --name)"
        )
    storage.create_exclusive(marker, _marker())


def _marker() -> bytes:
    return json.dumps({"format": FORMAT}).encode()


def _format_of(root: str, marker: bytes) -> int:
    try:
        found = int(json.loads(marker)["format"])
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{root}/{_MARKER}: cannot be understood ({fault!r}); restore it, or choose another "
            "root (--output, --name)"
        ) from fault
    if found > FORMAT:
        raise DataError(
            f"{root}: dataset of format {found}, this version of snapvideo reads format {FORMAT} "
            "and earlier; choose another root (--output, --name), or run the snapvideo version "
            "that wrote it"
        )
    return found


def _conformed(table: TableName, rows: Rows) -> pa.Table:
    """Return rows with exactly the table's columns."""
    schema = SCHEMAS[table]
    given = rows if isinstance(rows, pa.Table) else _from_dicts(table, rows)
    _check_columns(table, given.column_names)
    now = dt.datetime.now(dt.UTC)
    columns = []
    for field in schema:
        present = field.name in given.column_names
        column = given[field.name] if present else pa.nulls(len(given), field.type)
        if field.name in _CLOCKS:
            column = pc.fill_null(column.cast(field.type), pa.scalar(now, field.type))
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)


def _numbered(rows: pa.Table, version: int) -> pa.Table:
    """Return rows with the number of the commit that is to hold them."""
    if "commit_seq" not in rows.column_names:
        return rows
    at = rows.column_names.index("commit_seq")
    return rows.set_column(at, "commit_seq", pa.array([version] * len(rows), pa.int64()))


def _from_dicts(table: TableName, rows: Sequence[dict[str, Any]]) -> pa.Table:
    _check_columns(table, {name for row in rows for name in row})
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS[table])


def _check_columns(table: TableName, names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(SCHEMAS[table].names))
    if unknown:
        raise DataError(f"table {table}: no column {unknown}; it has {SCHEMAS[table].names}")


def _values(rows: pa.Table | pa.RecordBatch, key: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in key), strict=True)


def _first_of_each(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Return the first row of every key."""
    first: dict[tuple[Any, ...], int] = {}
    for index, value in enumerate(_values(rows, key)):
        first.setdefault(value, index)
    return rows.take(pa.array(list(first.values()), pa.int64()))
