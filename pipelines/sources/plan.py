"""What is to be done about a listing: new, changed, recaptioned, stale, retried or vanished.

The listing is joined with the newest row of each source in the dataset, out of core; media is
not opened. A source that is known as it is listed needs nothing.

    found = plan(dataset, listing, ids, out=path)
    log.info(describe(found))
"""

import collections
import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import ConfigError
from infra.store.dataset import Dataset
from infra.store.query import query
from pipelines.sources.entry import ENTRIES
from pipelines.sources.spool import Listing

log = logging.getLogger(__name__)

Why = Literal["new", "changed", "recaptioned", "stale", "retry", "unchanged", "vanished"]

PLAN: pa.Schema = (
    ENTRIES.append(pa.field("why", pa.string()))
    .append(pa.field("known_id", pa.string()))
    .append(pa.field("attempts", pa.int64()))
)
"""Entries, why each is there, the `source_id` of media that is not read, and earlier attempts."""

_UNTOUCHED = ("unchanged", "vanished")
_MOST_TOLD = 50

_EACH_ONCE = """(
    SELECT DISTINCT ON (uri) uri, partition, size_bytes, stamp, caption_stamp
    FROM listing ORDER BY uri, stamp, caption_stamp, partition
)"""
_REPEATED = "SELECT uri FROM listing GROUP BY uri HAVING count(*) > 1"
_DECIDE = """
WITH joined AS (
    SELECT coalesce(l.uri, k.source_uri) AS uri,
        coalesce(l.partition, k.partition) AS partition,
        greatest(0, coalesce(l.size_bytes, 0)) AS size_bytes,
        k.source_id, k.attempts,
        l.uri IS NULL AS is_gone,
        k.source_uri IS NULL AS is_new,
        k.status = 'vanished' AS was_gone,
        k.status = 'ok' OR (k.status = 'vanished' AND coalesce(k.num_clips, 0) > 0) AS was_ok,
        l.stamp = '?' OR l.stamp IS NOT DISTINCT FROM k.stamp AS same_stamp,
        l.caption_stamp = coalesce(k.caption_stamp, '') AS same_words,
        l.partition IS NOT DISTINCT FROM k.partition
            AND k.source_root IS NOT DISTINCT FROM $1 AS same_place,
        k.transform_id IS NOT DISTINCT FROM $2 AS same_cut,
        k.ingest_id IS NOT DISTINCT FROM $3 AS same_rules,
        coalesce(k.retryable, false) AND coalesce(k.attempts, 0) < $4 AS may_retry,
        k.status IS DISTINCT FROM 'vanished' AND k.source_root = $1
            AND NOT coalesce(  -- what a tar holds that cannot be listed now is not known
                split_part(k.source_uri, '!/', 1) IN (SELECT uri FROM listing WHERE refusal <> ''),
                false
            ) AS may_vanish
    FROM {listed} l FULL OUTER JOIN current_sources k ON l.uri = k.source_uri
), decided AS (
    SELECT uri, partition, size_bytes, source_id, attempts, CASE
        WHEN is_gone AND may_vanish THEN 'vanished'
        WHEN is_gone THEN 'of another source'
        WHEN is_new THEN 'new'
        WHEN was_gone AND was_ok AND same_stamp AND same_cut AND source_id <> '' THEN 'recaptioned'
        WHEN was_gone THEN 'new'
        WHEN NOT same_stamp THEN 'changed'
        WHEN was_ok AND NOT same_cut THEN 'stale'
        WHEN was_ok AND same_words AND same_place THEN 'unchanged'
        WHEN was_ok THEN 'recaptioned'
        WHEN NOT same_rules OR NOT same_place THEN 'stale'
        WHEN may_retry THEN 'retry'
        ELSE 'unchanged' END AS why
    FROM joined
)
SELECT uri, partition, size_bytes, why,
    CASE WHEN why = 'recaptioned' THEN source_id ELSE '' END AS known_id,
    CASE WHEN why = 'retry' THEN coalesce(attempts, 0) ELSE 0 END AS attempts
FROM decided
WHERE why <> 'of another source' AND (len($5) = 0 OR list_contains($5, partition))
"""
_ROWS = """
SELECT * FROM (
    SELECT {once} {columns}, d.why, d.known_id, d.attempts
    FROM listing l JOIN decided d ON l.uri = d.uri
    WHERE d.why <> 'vanished' {order}
) ORDER BY partition, uri
"""
_ONCE = {
    "once": "DISTINCT ON (l.uri)",
    "order": "ORDER BY l.uri, l.stamp, l.caption_stamp, l.partition",
}
_VANISHED = "SELECT uri FROM decided WHERE why = 'vanished' ORDER BY uri"


@dataclass(frozen=True)
class IngestIds:
    """The settings that decide what becomes of a source."""

    ingest_id: str
    transform_id: str


@dataclass(frozen=True)
class Tally:
    """How many sources, and of how many bytes."""

    num_files: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.num_files + other.num_files, self.size_bytes + other.size_bytes)


@dataclass(frozen=True)
class Plan:
    """What is to be done, in files."""

    path: Path
    """Parquet, columns `PLAN`, sorted by partition and name."""
    vanished_path: Path
    """Parquet with the column `uri`."""
    partitions: Mapping[str, Mapping[Why, Tally]]

    @property
    def counts(self) -> dict[Why, int]:
        """How many sources there are by what is to be done; every `Why` has its number."""
        sums: collections.Counter[Why] = collections.Counter()
        for tallies in self.partitions.values():
            sums.update({why: tally.num_files for why, tally in tallies.items()})
        return {why: sums[why] for why in get_args(Why)}

    @property
    def num_files(self) -> int:
        """How many sources there is something to do about, without those that vanished."""
        return sum(num for why, num in self.counts.items() if why not in _UNTOUCHED)


def plan(
    dataset: Dataset,
    listing: Listing,
    settings_ids: IngestIds,
    partitions: tuple[str, ...] = (),
    *,
    out: Path,
    files_per_task: int = 128,
    max_attempts: int = 5,
) -> Plan:
    """Return what is to be done about a listing.

    Args:
        dataset: What is known.
        listing: What is there.
        settings_ids: How sources would be treated now.
        partitions: Only these; empty: all.
        out: Where the plan's file shall lie; two more lie beside it.
        files_per_task: Rows of a row group, so that who reads the plan holds one unit of work.
        max_attempts: Runs that try a source which is refused for a reason that may pass.
    """
    decided, vanished = out.with_suffix(".decided.parquet"), out.with_suffix(".vanished.parquet")
    words = (listing.source_root, settings_ids.transform_id, settings_ids.ingest_id, max_attempts)
    known = {"listing": listing.path}
    repeats = not listing.sorted_by_uri and _repeats(dataset, known)
    sql = _DECIDE.format(listed=_EACH_ONCE if repeats else "listing")
    with query(dataset, sql, relations=known, parameters=(*words, list(partitions))) as rows:
        tallies = _write_decided(rows, decided)
    _check_partitions(partitions, listing, tallies)
    columns = ", ".join(f"l.{name}" for name in ENTRIES.names)
    sql = _ROWS.format(columns=columns, **(_ONCE if repeats else {"once": "", "order": ""}))
    with query(dataset, sql, relations=known | {"decided": decided}) as rows:
        _write_units(rows, out, files_per_task)
    with query(dataset, _VANISHED, relations={"decided": decided}) as rows:
        _write_all(rows, vanished)
    decided.unlink()
    found = Plan(out, vanished, tallies)
    log.info("planned %s", " ".join(f"{why}={num}" for why, num in found.counts.items()))
    return found


def describe(found: Plan) -> str:
    """Return a plan as a table: files by partition and by what is to be done with them."""
    names = [name for name, by_why in sorted(found.partitions.items()) if set(by_why) != _STILL]
    lines = [_line("partition", list(get_args(Why)), "MiB to read")]
    lines += [_row(name, found.partitions[name]) for name in names[:_MOST_TOLD]]
    if len(names) > _MOST_TOLD:
        lines.append(f"... and {len(names) - _MOST_TOLD} more partitions")
    unchanged = len(found.partitions) - len(names)
    if unchanged:
        lines.append(f"{unchanged} partitions with nothing to do")
    total: dict[Why, Tally] = {}
    for by_why in found.partitions.values():
        for why, tally in by_why.items():
            total[why] = total.get(why, Tally()) + tally
    return "\n".join([*lines, _row("all", total)])


_STILL = {"unchanged"}
_READ: tuple[Why, ...] = ("new", "changed", "stale", "retry")


def _row(name: str, by_why: Mapping[Why, Tally]) -> str:
    numbers = [str(by_why.get(why, Tally()).num_files) for why in get_args(Why)]
    size_bytes = sum(by_why.get(why, Tally()).size_bytes for why in _READ)
    return _line(name, numbers, f"{size_bytes / 2**20:,.1f}")


def _line(name: str, cells: list[str], last: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"{shown:<24.60} " + " ".join(f"{cell:>11}" for cell in [*cells, last])


def _repeats(dataset: Dataset, relations: Mapping[str, Path]) -> bool:
    """Return whether a listing names a source more than once; tell how many."""
    with query(dataset, _REPEATED, relations=relations) as rows:
        num = sum(len(batch) for batch in rows)
    if num:
        log.warning(
            "named more than once, one row of each is used sources=%d; several captions go into "
            "several columns, or a list",
            num,
        )
    return num > 0


def _write_decided(rows: pa.RecordBatchReader, path: Path) -> dict[str, dict[Why, Tally]]:
    """Write what there is something to do about, and count everything."""
    found: dict[str, dict[Why, Tally]] = {}
    with pq.ParquetWriter(path, rows.schema) as writer:
        for batch in rows:
            table = pa.Table.from_batches([batch])
            writer.write_table(table.filter(pc.field("why") != "unchanged"))
            sums = table.group_by(["partition", "why"]).aggregate(
                [("uri", "count"), ("size_bytes", "sum")]
            )
            for row in sums.to_pylist():
                by_why = found.setdefault(row["partition"], {})
                tally = Tally(row["uri_count"], row["size_bytes_sum"])
                by_why[row["why"]] = by_why.get(row["why"], Tally()) + tally
    return found


def _check_partitions(
    asked: tuple[str, ...], listing: Listing, found: Mapping[str, Mapping[Why, Tally]]
) -> None:
    missing = [name for name in asked if name not in found]
    if missing:
        near = difflib.get_close_matches(missing[0], listing.partitions, n=3, cutoff=0.3)
        shown = ", ".join(near or list(listing.partitions)[:10])
        raise ConfigError(
            f"partition '{missing[0]}' is not among the {len(listing.partitions)} of "
            f"{listing.source_root}; there are such as {shown} (setting refresh.partitions)"
        )


def _write_units(rows: pa.RecordBatchReader, path: Path, files_per_unit: int) -> None:
    """Write rows in row groups of exactly so many, but for the last."""
    held: pa.Table = PLAN.empty_table()
    # Nobody reads the statistics, which would be most of the footer.
    with pq.ParquetWriter(path, PLAN, compression="zstd", write_statistics=False) as writer:
        for batch in rows:
            held = pa.concat_tables([held, pa.Table.from_batches([batch]).cast(PLAN)])
            whole = len(held) // files_per_unit
            if whole:
                writer.write_table(held.slice(0, whole * files_per_unit), files_per_unit)
                held = held.slice(whole * files_per_unit).combine_chunks()
        if len(held):
            writer.write_table(held)


def _write_all(rows: pa.RecordBatchReader, path: Path) -> None:
    with pq.ParquetWriter(path, rows.schema) as writer:
        for batch in rows:
            writer.write_batch(batch)
