"""Near doubles: of clips that look alike, one stays and the others are told in table `duplicates`.

Alike are clips whose hashes or vectors lie near each other, and whoever is tied to them by a chain
of such pairs; of each group one stays: one that stayed before, else the largest picture, then the
least clip_id. Rows are only ever added: clips that come later are compared with all, while a clip
that was looked up and stays has a row of its own (it doubles itself) and is not looked up again.

A version names everything that decides: method, threshold, which clips are compared. Where a clip
that stayed no longer counts (its source vanished), what hung on it would be lost, so a new
generation begins, with a version and rows of its own.

    found = search(dataset, selection, by_phash(settings), run_id)
    Selection(..., duplicate_versions=(found.version,))
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.selection import Selection
from pipelines.scores.clusters import label, row, scratch

log = logging.getLogger(__name__)

_ROWS_PER_COMMIT = 50_000
_KEY = ("clip_id", "of_clip_id", "version")


@dataclass(frozen=True)
class Method:
    """How clips are compared."""

    name: str
    """As in `duplicates.method`."""
    identity: str
    """All that the comparison depends on, besides the clips."""
    sql: str
    """SELECT clip_id and `mark` (equal marks: equal looks) of the clips that can be compared."""
    parameters: tuple[object, ...]
    pair: Callable[[duckdb.DuckDBPyConnection], None]
    """Fill `edges` (a, b) with pairs of near nodes, at least one of them fresh, from `nodes`
    (node, kind, mark, fresh)."""
    distance: Callable[[pa.Table], pa.DoubleArray]
    """Return the distances of rows with `mark` and `of_mark`."""
    same_source: bool
    memory_mib: int


@dataclass(frozen=True)
class Doubles:
    """What a search found."""

    version: str
    """For `Selection.duplicate_versions`."""
    num_compared: int
    """Clips that count and can be compared."""
    num_fresh: int
    """Those that were looked up now."""
    num_found: int
    """Doubles that were found now."""
    num_doubles: int
    """Doubles among the compared, found now or before."""
    seconds: float


def search(dataset: Dataset, selection: Selection, method: Method, run_id: str) -> Doubles:
    """Look up the clips of a selection that are new, and tell the doubles.

    Args:
        dataset: Whose.
        selection: Which clips are compared; doubles found earlier are not left out of them.
        method: How.
        run_id: Written into each row.
    """
    started_s = time.monotonic()
    scope = selection.model_copy(update={"duplicate_versions": ()})
    stem = _stem(scope, method)
    generation = _generation(dataset, stem)
    with scratch(max(64, method.memory_mib // 2)) as db:
        version = f"{stem}.{generation}"
        _load(db, dataset, scope, method, version)
        if _lost(db):
            version = f"{stem}.{generation + 1}"
            log.info("doubles: clips that stayed are gone, all are compared anew %s", version)
            _load(db, dataset, scope, method, version)
        num_compared, num_fresh, num_before = _count(db)
        num_found = 0
        if num_fresh:
            _group(db, method)
            num_found = _tell(db, dataset, method, version, run_id)
    seconds = time.monotonic() - started_s
    log.info(
        "doubles method=%s version=%s compared=%d fresh=%d found=%d seconds=%.1f",
        *(method.name, version, num_compared, num_fresh, num_found, seconds),
    )
    return Doubles(version, num_compared, num_fresh, num_found, num_before + num_found, seconds)


def known_version(dataset: Dataset, method: Method) -> str:
    """Return the version of the newest search by a method, whatever it compared; empty: none."""
    sql = (
        "SELECT version FROM duplicates WHERE starts_with(version, ?) "
        'GROUP BY version ORDER BY max("at") DESC, version DESC LIMIT 1'
    )
    with query(dataset, sql, parameters=[f"{_digest(method)}-"]) as rows:
        found = rows.read_all()["version"].to_pylist()
    return str(found[0]) if found else ""


def _digest(method: Method) -> str:
    """Return the identity of a method."""
    words = f"{method.identity} same_source={method.same_source}"
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def _stem(scope: Selection, method: Method) -> str:
    """Return what the versions of searches by a method among the clips of a scope begin with."""
    words = json.dumps(scope.model_dump(mode="json"), sort_keys=True)
    return f"{_digest(method)}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"


def _generation(dataset: Dataset, stem: str) -> int:
    sql = (
        "SELECT coalesce(max(split_part(version, '.', 2)::INTEGER), 0) AS generation "
        "FROM duplicates WHERE starts_with(version, ?)"
    )
    with query(dataset, sql, parameters=[f"{stem}."]) as rows:
        return int(rows.read_all()["generation"][0].as_py())


def _load(
    db: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    scope: Selection,
    method: Method,
    version: str,
) -> None:
    """Fill `members` (clip_id, kind, source_id, px, mark, fresh, of_clip_id) and `nodes`."""
    chosen, values = selected_sql(scope)
    sql = (
        "SELECT c.clip_id, c.kind, c.source_id, c.width * c.height AS px, m.mark, "
        "d.clip_id IS NULL AS fresh, d.of_clip_id "
        f"FROM ({chosen}) c JOIN ({method.sql}) m ON m.clip_id = c.clip_id "
        "LEFT JOIN (SELECT clip_id, min(of_clip_id) FILTER (WHERE of_clip_id <> clip_id) "
        "AS of_clip_id FROM duplicates WHERE version = ? GROUP BY clip_id) d "
        "ON d.clip_id = c.clip_id"
    )
    parameters, half = [*values, *method.parameters, version], max(64, method.memory_mib // 2)
    with query(dataset, sql, parameters=parameters, memory_mib=half) as incoming:
        db.register("incoming", incoming)
        db.execute("CREATE OR REPLACE TABLE members AS SELECT * FROM incoming")
        db.unregister("incoming")
    db.execute(
        "CREATE OR REPLACE TABLE nodes AS SELECT row_number() OVER (ORDER BY kind, mark) AS node, *"
        " FROM (SELECT kind, mark, bool_or(fresh) AS fresh, min(source_id) AS first_source, "
        "max(source_id) AS last_source FROM members GROUP BY kind, mark)"
    )


def _lost(db: duckdb.DuckDBPyConnection) -> bool:
    """Return whether a double hangs on a clip that is not compared any more."""
    (found,) = row(
        db,
        "SELECT count(*) FROM members WHERE of_clip_id IS NOT NULL "
        "AND of_clip_id NOT IN (SELECT clip_id FROM members)",
    )
    return bool(found)


def _count(db: duckdb.DuckDBPyConnection) -> tuple[int, int, int]:
    """Return how many are compared, how many of them are fresh, and how many are known doubles."""
    compared, fresh, doubles = row(
        db, "SELECT count(*), count(*) FILTER (WHERE fresh), count(of_clip_id) FROM members"
    )
    return int(compared), int(fresh), int(doubles)


def _group(db: duckdb.DuckDBPyConnection, method: Method) -> None:
    """Fill `leaving` (clip_id, of_clip_id, mark, of_mark) for groups that have something fresh."""
    db.execute("CREATE OR REPLACE TABLE edges (a BIGINT, b BIGINT)")
    method.pair(db)
    if not method.same_source:  # a pair counts where its clips are of two sources
        db.execute(
            "CREATE OR REPLACE TABLE edges AS SELECT e.a, e.b FROM edges e "
            "JOIN nodes x ON x.node = e.a JOIN nodes y ON y.node = e.b WHERE "
            "least(x.first_source, y.first_source) <> greatest(x.last_source, y.last_source)"
        )
    db.execute(
        "CREATE OR REPLACE TABLE placed AS SELECT m.*, n.node "
        "FROM members m JOIN nodes n ON n.kind = m.kind AND n.mark = m.mark"
    )
    db.execute(  # what was grouped earlier stays together
        "INSERT INTO edges SELECT m.node, o.node FROM placed m "
        "JOIN placed o ON o.clip_id = m.of_clip_id"
    )
    label(db)
    counted = "" if method.same_source else "AND min(source_id) <> max(source_id)"
    db.execute(
        "CREATE OR REPLACE TABLE leaving AS WITH grouped AS ("
        "SELECT p.*, coalesce(l.label, p.node) AS label FROM placed p LEFT JOIN labels l "
        "ON l.node = p.node), alike AS (SELECT label, arg_min(clip_id, rank) AS stays, "
        "arg_min(mark, rank) AS of_mark FROM (SELECT *, row_number() OVER (PARTITION BY label "
        "ORDER BY of_clip_id IS NOT NULL, fresh, px DESC, clip_id) AS rank FROM grouped) "
        f"GROUP BY label HAVING count(*) > 1 AND bool_or(fresh) {counted}) "
        "SELECT g.clip_id, a.stays AS of_clip_id, g.mark, a.of_mark FROM grouped g "
        "JOIN alike a ON a.label = g.label WHERE g.clip_id <> a.stays AND g.of_clip_id IS NULL "
        "ORDER BY g.clip_id"
    )


def _tell(
    db: duckdb.DuckDBPyConnection, dataset: Dataset, method: Method, version: str, run_id: str
) -> int:
    """Add to `duplicates` who leaves, then who was looked up and stays; return how many leave.

    In this order a search that was killed is done again, with the same outcome.
    """
    constant = {"method": method.name, "version": version, "run_id": run_id}
    left = 0
    for block in _blocks(db, "SELECT * FROM leaving"):
        rows = block.select(["clip_id", "of_clip_id"])
        rows = rows.append_column("distance", method.distance(block))
        left += dataset.append_new("duplicates", _stamped(rows, constant), _KEY)
    stays = (
        "SELECT clip_id, clip_id AS of_clip_id, 0.0::DOUBLE AS distance FROM members "
        "WHERE fresh AND clip_id NOT IN (SELECT clip_id FROM leaving)"
    )
    for block in _blocks(db, stays):
        dataset.append_new("duplicates", _stamped(block, constant), _KEY)
    return left


def _stamped(rows: pa.Table, constant: dict[str, str]) -> pa.Table:
    for name, word in constant.items():
        rows = rows.append_column(name, pa.array([word] * len(rows), pa.string()))
    return rows


def _blocks(db: duckdb.DuckDBPyConnection, sql: str) -> Iterator[pa.Table]:
    """Yield the rows of a query, as many as enter one commit at a time."""
    with db.cursor() as cursor:
        for batch in cursor.sql(sql).to_arrow_reader(_ROWS_PER_COMMIT):
            if len(batch):
                yield pa.Table.from_batches([batch])
