"""Who belongs together: connected components of pairs, in DuckDB, beyond memory.

Chains count: where a is like b and b like c, all three are one group. The labels come from
alternating "stars" (each node hangs its neighbours to the least one it knows, first the larger
ones, then the smaller), which halves long chains in every round instead of walking them.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb


@contextlib.contextmanager
def scratch(memory_mib: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give an empty database that spills into a temporary folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="snapvideo-doubles-") as folder:
        db = duckdb.connect(str(Path(folder) / "scratch.duckdb"))
        try:
            db.execute(f"SET memory_limit = '{memory_mib}MiB'")
            db.execute("SET preserve_insertion_order = false")
            yield db
        finally:
            db.close()


def label(db: duckdb.DuckDBPyConnection) -> int:
    """Make the table `labels` (node, label) from the table `edges` (a, b); return the rounds.

    A node's label is the least node of its group; nodes without an edge are left out.
    """
    db.execute("CREATE OR REPLACE TABLE stars AS SELECT DISTINCT a, b FROM edges WHERE a <> b")
    rounds = 0
    before = None
    while (now := _fingerprint(db)) != before:
        before, rounds = now, rounds + 1
        _hang(db, "v > u")
        _hang(db, "v < u")
    db.execute(
        "CREATE OR REPLACE TABLE labels AS SELECT greatest(a, b) AS node, least(a, b) AS label "
        "FROM stars UNION SELECT least(a, b), least(a, b) FROM stars"
    )
    return rounds


def _hang(db: duckdb.DuckDBPyConnection, which: str) -> None:
    """Hang each node's neighbours (`v > u` or `v < u`) to the least of the node and all of them.

    Smaller neighbours take the node itself along, as it has to stay tied to them.
    """
    itself = "UNION SELECT u, least FROM near WHERE u <> least" if which == "v < u" else ""
    db.execute(
        "CREATE OR REPLACE TABLE hung AS WITH both_ways AS ("
        "SELECT a AS u, b AS v FROM stars UNION ALL SELECT b, a FROM stars), near AS ("
        "SELECT u, v, least(u, min(v) OVER (PARTITION BY u)) AS least FROM both_ways) "
        f"SELECT v AS a, least AS b FROM near WHERE {which} AND v <> least {itself}"
    )
    db.execute("CREATE OR REPLACE TABLE stars AS SELECT DISTINCT a, b FROM hung")


def row(
    db: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] = ()
) -> tuple[Any, ...]:
    """Return the only row of a query, and leave nothing of its result open."""
    (found,) = db.execute(sql, list(parameters)).fetchall()
    return tuple(found)


def _fingerprint(db: duckdb.DuckDBPyConnection) -> tuple[Any, ...]:
    """Return what changes when the stars do."""
    return row(db, "SELECT count(*), sum(hash(a, b)::HUGEINT) FROM stars")
