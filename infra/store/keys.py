"""Which keys a table holds, known without holding them in memory.

The keys' digests lie in an SQLite file in a scratch folder. It is kept current by reading the key
columns of those data files alone that newer commits added.

    with Keys(dataset, "clips", ("source_id", "transform_id")) as keys:
        new = dataset.append_once("clips", rows, keys)
"""

import hashlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from infra import storage
from infra.errors import DataError
from infra.store.commits import Writer, faults, newer_commits
from infra.store.dataset import Dataset
from infra.store.schema import SCHEMAS, TableName

_BATCH_ROWS = 1 << 15
_FILES_AT_ONCE = 64
_CACHE_KIB = 64 << 10


class Keys(AbstractContextManager["Keys"]):
    """The keys of one table: the values of some columns, taken together."""

    def __init__(self, dataset: Dataset, table: TableName, columns: tuple[str, ...]) -> None:
        """Open the table for writing; its keys are read by the first `refresh`."""
        unknown = sorted(set(columns) - set(SCHEMAS[table].names))
        assert columns, "a key has at least one column"
        assert not unknown, f"table {table} has no columns {unknown}"
        self.table: TableName = table
        self.columns = columns
        self.writer = Writer(dataset.root, table)
        self._version = -1
        self._folder = Path(tempfile.mkdtemp(prefix="snapvideo-keys-"))
        self._held = sqlite3.connect(self._folder / "keys.sqlite", isolation_level=None)
        for line in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "CREATE TABLE keys (digest BLOB PRIMARY KEY) WITHOUT ROWID",
        ):
            self._held.execute(line)

    def __exit__(self, *_: object) -> None:
        """Remove the scratch folder."""
        self._held.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __len__(self) -> int:
        """Return how many keys are held."""
        return int(self._held.execute("SELECT count(*) FROM keys").fetchone()[0])

    def refresh(self) -> None:
        """Learn the keys of what was committed since.

        Raises:
            DataError: A data file is gone or damaged, or the scratch disk is full.
            ServiceError: S3 does not answer or refuses.
        """
        self.writer.refresh()
        files = list(self._new_files())
        for start in range(0, len(files), _FILES_AT_ONCE):
            self._read(files[start : start + _FILES_AT_ONCE])
        self._version = self.writer.version

    def missing(self, rows: pa.Table) -> pa.Table:
        """Return the rows whose key is not held; rows that share a key are all kept."""
        found = self._held.execute
        wanted = "SELECT 1 FROM keys WHERE digest = ?"
        free: dict[bytes, bool] = {}
        mask = []
        for digest in digests(rows, self.columns):
            if digest not in free:
                free[digest] = found(wanted, (digest,)).fetchone() is None
            mask.append(free[digest])
        return rows.filter(pa.array(mask, pa.bool_()))

    def committed(self, rows: pa.Table) -> None:
        """Take note of rows that this process has just committed upon what it knew."""
        self._add(digests(rows, self.columns))
        self._version += 1  # `writer` may know of more, if the answer to the commit was lost

    def _new_files(self) -> Iterator[str]:
        """Yield the data files of the commits after the known one, or of the whole table."""
        upto = self.writer.version
        if self._version < 0:
            yield from self.writer.files()
            return
        at = self._version
        for commit in newer_commits(self.writer.uri, self._version):
            if commit.version > upto:
                break
            at = commit.version
            yield from commit.new_files
        if at < upto:  # the log before its newest checkpoint was removed
            yield from self.writer.files()

    def _read(self, files: Sequence[str]) -> None:
        system, path = storage.filesystem(self.writer.uri)
        schema = SCHEMAS[self.table]
        with faults(self.writer.uri):
            found = pads.dataset(
                [f"{path}/{name}" for name in files],
                schema=pa.schema([schema.field(name) for name in self.columns]),
                filesystem=system,
                format="parquet",
            )
            batches = found.to_batches(
                batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=2
            )
            for batch in batches:
                self._add(digests(pa.table(batch), self.columns))

    def _add(self, found: Iterable[bytes]) -> None:
        try:
            self._held.execute("BEGIN")
            self._held.executemany(
                "INSERT OR IGNORE INTO keys VALUES (?)", ((value,) for value in sorted(set(found)))
            )
            self._held.execute("COMMIT")
        except sqlite3.OperationalError as fault:
            raise DataError(
                f"{self._folder}: the keys of {self.table} cannot be written ({fault}); free "
                "space there, or set TMPDIR to another disk"
            ) from fault


def digests(rows: pa.Table | pa.RecordBatch, columns: tuple[str, ...]) -> list[bytes]:
    """Return 16 bytes for each row that stand for its values in `columns`."""
    found: dict[tuple[Any, ...], bytes] = {}
    out = []
    for values in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        digest = found.get(values)
        if digest is None:
            digest = found[values] = hashlib.blake2b(repr(values).encode(), digest_size=16).digest()
        out.append(digest)
    return out
