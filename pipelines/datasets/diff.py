"""What differs between two releases, two versions of a table, or either and now.

Both sides are written to local files and joined out of core, so corpora of any size can be
compared; only examples are held.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from infra.errors import ConfigError
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.release import captioned_sql
from infra.store.schema import SCHEMAS, TableName
from infra.store.selection import Selection
from pipelines.datasets import words
from pipelines.datasets.actions import Answer
from pipelines.datasets.clips import view

NOW = "now"

_TABLES = ("clips", "captions")
_AT = re.compile(r"([a-z]+)@(\d+)")
_COLUMNS = "clip_id, source_id, source_uri, media_sha256, text, origin"
_COUNTS = """
    SELECT
        count(*) FILTER (a.clip_id IS NULL) AS clips_added,
        count(*) FILTER (b.clip_id IS NULL) AS clips_removed,
        count(*) FILTER (a.clip_id = b.clip_id) AS clips_kept,
        count(*) FILTER (a.clip_id = b.clip_id
            AND a.media_sha256 IS DISTINCT FROM b.media_sha256) AS clips_encoded_anew,
        count(*) FILTER (a.clip_id = b.clip_id
            AND a.text IS DISTINCT FROM b.text) AS captions_changed
    FROM old AS a FULL JOIN new AS b ON a.clip_id = b.clip_id
"""
_SOURCES = """
    WITH both_sides AS (
        SELECT coalesce(a.source_id, b.source_id) AS source_id,
            coalesce(b.source_uri, a.source_uri) AS source_uri,
            a.clip_id AS old_clip, b.clip_id AS new_clip
        FROM old AS a FULL JOIN new AS b ON a.clip_id = b.clip_id
    ),
    per_source AS (
        SELECT source_id, min(source_uri) AS source_uri, count(old_clip) AS num_old,
            count(new_clip) AS num_new,
            count(*) FILTER (old_clip IS NULL) AS num_added,
            count(*) FILTER (new_clip IS NULL) AS num_removed
        FROM both_sides GROUP BY source_id
    )
    SELECT *, CASE WHEN num_old = 0 THEN 'added' WHEN num_new = 0 THEN 'removed'
        ELSE 'cut anew' END AS what
    FROM per_source WHERE num_added + num_removed > 0
"""
_CAPTIONS = """
    SELECT clip_id, b.source_uri, a.text AS old_text, b.text AS new_text,
        coalesce(a.origin, '') AS old_origin, coalesce(b.origin, '') AS new_origin
    FROM old AS a JOIN new AS b USING (clip_id)
    WHERE a.text IS DISTINCT FROM b.text ORDER BY clip_id LIMIT ?
"""


@dataclass(frozen=True)
class _Side:
    """What is compared: how it was called, and a query with its parameters and versions."""

    name: str
    sql: str
    values: list[object]
    versions: dict[TableName, int]


def diff(root: str, old: str, new: str, limit: int) -> Answer:
    """Return what changed from one side to the other: counts, then examples.

    Args:
        root: The dataset's root.
        old: A release, `now`, or a version such as `clips@3`.
        new: The same.
        limit: Most examples of each kind.

    Raises:
        ConfigError: A side is malformed, or the two cannot be compared.
        DataError: There is no such release or version.
    """
    dataset = Dataset.open(root)
    table = _common_table(old, new)
    with _sides(dataset, _side(dataset, old, table), _side(dataset, new, table)) as files:
        (counts,) = _read(dataset, files, _COUNTS)
        whats = f"SELECT what, count(*) AS num FROM ({_SOURCES}) GROUP BY what"
        sources = {one["what"]: one["num"] for one in _read(dataset, files, whats)}
        by_source = f"SELECT * FROM ({_SOURCES}) ORDER BY num_added + num_removed DESC, source_id"
        facts: dict[str, Any] = {"root": dataset.root, "old": old, "new": new}
        facts |= counts | {
            "sources_added": sources.get("added", 0),
            "sources_removed": sources.get("removed", 0),
            "sources_cut_anew": sources.get("cut anew", 0),
            "sources": _read(dataset, files, f"{by_source} LIMIT ?", limit),
            "captions": _read(dataset, files, _CAPTIONS, limit),
        }
    return Answer("\n".join(_lines(facts)), facts)


def _common_table(old: str, new: str) -> TableName | None:
    """Return the table whose versions are compared; None where releases are."""
    found = [match[1] for side in (old, new) if (match := _AT.fullmatch(side))]
    strange = [table for table in found if table not in _TABLES]
    if strange:
        raise ConfigError(
            f"dataset diff: versions of {strange[0]!r} cannot be compared; known: "
            + ", ".join(f"{table}@VERSION" for table in _TABLES)
        )
    others = [side for side in (old, new) if not _AT.fullmatch(side) and side != NOW]
    if found and (others or len(set(found)) > 1):
        raise ConfigError(
            f"dataset diff: {old} and {new} cannot be compared; say two releases, two versions "
            f"of one table, or one of them and `{NOW}`"
        )
    return cast("TableName", found[0]) if found else None


def _side(dataset: Dataset, name: str, table: TableName | None) -> _Side:
    if table is None:
        seen = view(dataset, "" if name == NOW else name, Selection())
        clips, values = captioned_sql(seen.selection)
        return _Side(name, f"SELECT {_COLUMNS} FROM ({clips})", values, dict(seen.versions))
    versions: dict[TableName, int] = {one: dataset.version(one) for one in SCHEMAS}
    match = _AT.fullmatch(name)
    if match:
        versions[table] = int(match[2])
    if table == "clips":
        nothing = "CAST(NULL AS VARCHAR) AS text, CAST(NULL AS VARCHAR) AS origin"
        plain = _COLUMNS.replace("text, origin", nothing)
        return _Side(name, f"SELECT {plain} FROM clips", [], versions)
    best, values = captioned_sql(Selection())
    texts = f"SELECT clip_id, text, origin FROM ({best})"
    sql = f"SELECT {_COLUMNS} FROM clips LEFT JOIN ({texts}) USING (clip_id)"
    return _Side(name, sql, values, versions)


@contextlib.contextmanager
def _sides(dataset: Dataset, old: _Side, new: _Side) -> Iterator[dict[str, Path]]:
    """Give both sides as local files."""
    with tempfile.TemporaryDirectory(prefix="snapvideo-diff-") as scratch:
        files = {}
        for key, side in (("old", old), ("new", new)):
            files[key] = Path(scratch, f"{key}.parquet")
            with (
                query(dataset, side.sql, side.versions, parameters=side.values) as rows,
                pq.ParquetWriter(files[key], rows.schema) as writer,
            ):
                for batch in rows:
                    writer.write_batch(batch)
        yield files


def _read(
    dataset: Dataset, files: dict[str, Path], sql: str, *values: object
) -> list[dict[str, Any]]:
    with query(dataset, sql, relations=files, parameters=values) as rows:
        return list(rows.read_all().to_pylist())


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['root']}: from {facts['old']} to {facts['new']}"]
    about = {
        "clips_added": "clips added",
        "clips_removed": "clips removed",
        "clips_kept": "clips kept",
        "clips_encoded_anew": "of them with other bytes",
        "captions_changed": "of them with another caption",
        "sources_added": "sources added",
        "sources_removed": "sources removed",
        "sources_cut_anew": "sources cut anew",
    }
    lines += words.columns([(facts[key], text) for key, text in about.items()])
    if facts["sources"]:
        lines.append("sources: clips removed, clips added")
        lines += words.columns(
            [
                (one["what"], -one["num_removed"], f"+{one['num_added']}", one["source_uri"])
                for one in facts["sources"]
            ]
        )
    if facts["captions"]:
        lines.append("captions")
    for one in facts["captions"]:
        lines.append(f"  {words.clean(one['clip_id'])}")
        lines.append(f"    - {words.clean(one['old_text'] or '(none)')}  [{one['old_origin']}]")
        lines.append(f"    + {words.clean(one['new_text'] or '(none)')}  [{one['new_origin']}]")
    return lines
