"""SQL over the tables of a dataset, out of core.

DuckDB reads the columns and rows that a query needs, spills to a temporary folder what does not
fit, and streams the result. It sees the tables by their names, the view `current_sources` and
what it is given, and may open nothing else.

    with query(dataset, "SELECT source_uri FROM current_sources WHERE status = 'ok'") as found:
        for batch in found: ...
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from infra import storage
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.schema import SCHEMAS, TableName

_BATCH_ROWS = 1 << 14
_THREAD_MIB = 128  # what a thread of DuckDB needs to spill instead of failing
_CURRENT_SOURCES = """
    CREATE VIEW current_sources AS SELECT * FROM sources
    QUALIFY row_number() OVER (PARTITION BY source_uri ORDER BY commit_seq DESC, "at" DESC) = 1
"""
_NO_RELATIONS: Mapping[str, pa.Table | Path] = {}


@contextlib.contextmanager
def query(
    dataset: Dataset,
    sql: str,
    versions: Mapping[TableName, int] | None = None,
    relations: Mapping[str, pa.Table | Path] = _NO_RELATIONS,
    parameters: Sequence[object] = (),
    memory_mib: int = 512,
) -> Iterator[pa.RecordBatchReader]:
    """Give the rows of a query, to be read while the context is open.

    Args:
        dataset: Whose tables the query may name.
        sql: One SELECT; without ORDER BY its rows come in any order.
        versions: Table versions to read; the newest where a table is not named.
        relations: Further relations by name: Arrow tables, or Parquet files.
        parameters: Values for the `?` of the query.
        memory_mib: What DuckDB may hold before it spills; Arrow's reading comes on top.

    Raises:
        DataError: Memory or disk do not suffice, or a data file is gone.
        ServiceError: S3 does not answer or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="snapvideo-query-") as scratch:
        options: dict[str, Any] = {
            "memory_limit": f"{memory_mib}MiB",
            "temp_directory": scratch,
            "preserve_insertion_order": False,
            "threads": max(1, min(os.cpu_count() or 1, memory_mib // _THREAD_MIB)),
            "autoinstall_known_extensions": False,
        }
        with duckdb.connect(":memory:", config=options) as connection:
            _register(connection, dataset, sql, versions or {}, relations)
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            with _faults(dataset.root, memory_mib, scratch):
                found = connection.sql(sql, params=list(parameters)).to_arrow_reader(_BATCH_ROWS)
            yield pa.RecordBatchReader.from_batches(
                found.schema, _told(found, dataset.root, memory_mib, scratch)
            )


class _Bounded(pads.FileSystemDataset):
    """Data files of which few are read ahead; DuckDB calls `scanner`."""

    def scanner(  # type: ignore[override]  # whatever DuckDB asks for goes through
        self,
        **request: Any,  # noqa: ANN401 - as above
    ) -> pads.Scanner:
        """Return a scanner that holds little."""
        return super().scanner(batch_readahead=2, fragment_readahead=1, **request)


def _register(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    sql: str,
    versions: Mapping[TableName, int],
    relations: Mapping[str, pa.Table | Path],
) -> None:
    words = set(re.findall(r"\w+", sql.lower()))
    for table in SCHEMAS:
        if table in words or (table == "sources" and "current_sources" in words):
            connection.register(table, _bounded(dataset.rows(table, versions.get(table))))
    if "current_sources" in words:
        connection.execute(_CURRENT_SOURCES)
    for name, relation in relations.items():
        given = (
            relation
            if isinstance(relation, pa.Table)
            else _bounded(pads.dataset(str(relation), format="parquet"))
        )
        connection.register(name, given)


def _bounded(found: pads.Dataset) -> pads.Dataset:
    if not isinstance(found, pads.FileSystemDataset):
        return found
    return _Bounded(list(found.get_fragments()), found.schema, found.format, found.filesystem)


def _told(
    found: pa.RecordBatchReader, root: str, memory_mib: int, scratch: str
) -> Iterator[pa.RecordBatch]:
    with _faults(root, memory_mib, scratch):
        yield from found


@contextlib.contextmanager
def _faults(root: str, memory_mib: int, scratch: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, pa.ArrowMemoryError) as fault:
        raise DataError(
            f"{root}: a query needs more than {memory_mib} MiB, or more disk than {scratch} has "
            f"({fault}); set TMPDIR to a disk with more space"
        ) from fault
    except (duckdb.IOException, duckdb.InvalidInputException, OSError) as fault:
        told = str(fault)
        if isinstance(fault, duckdb.InvalidInputException) and "registered as" not in told:
            raise  # the query itself is wrong: our fault
        if "No such file" in told or "does not exist" in told:
            raise DataError(
                f"{root}: a data file that a table names is gone ({told}); restore it, or read a "
                "newer version"
            ) from fault
        raise storage.explain(root, fault) from fault
