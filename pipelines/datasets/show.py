"""What lies in a dataset: counted by queries that read only the columns they need."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from infra.store import release as releases
from infra.store.commits import open_table
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.schema import SCHEMAS, TableName
from pipelines.datasets import words
from pipelines.datasets.actions import Answer

_PARTITIONS = 20
_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_NOTHING = 1e-300  # an estimated quantile of zeros is nearly zero
_QUERIES = {
    "clips": """
        SELECT kind, encode_mode AS mode, count(*) AS num, coalesce(sum(duration_s), 0) AS seconds,
            coalesce(sum(media_length), 0)::BIGINT AS size_bytes,
            approx_count_distinct(source_id) AS about_sources
        FROM clips GROUP BY ALL ORDER BY ALL""",
    "sources": """
        SELECT status, coalesce(reason, '') AS reason, count(*) AS num,
            coalesce(sum(greatest(size_bytes, 0)), 0)::BIGINT AS size_bytes
        FROM current_sources GROUP BY ALL ORDER BY status, num DESC, reason""",
    "partitions": """
        SELECT coalesce("partition", '') AS name, count(*) AS num_sources,
            count(*) FILTER (status = 'ok') AS num_ok,
            coalesce(sum(num_clips), 0)::BIGINT AS num_clips
        FROM current_sources GROUP BY ALL ORDER BY num_sources DESC, name""",
    "captions": """
        SELECT coalesce(origin, '') AS origin, coalesce(model, '') AS model,
            coalesce(recipe_id, '') AS recipe_id, coalesce(status, '') AS status, count(*) AS num
        FROM captions GROUP BY ALL ORDER BY origin, num DESC, recipe_id, status""",
    "scores": f"""
        SELECT scorer, coalesce(version, '') AS version, count(*) AS num, min(value) AS least,
            approx_quantile(value, {list(_QUANTILES)}) AS quantiles, max(value) AS most
        FROM scores GROUP BY ALL ORDER BY scorer, version""",
    "vectors": """
        SELECT coalesce(encoder_id, '') AS encoder_id, count(*) AS num
        FROM vectors GROUP BY ALL ORDER BY ALL""",
    "duplicates": """
        SELECT coalesce(method, '') AS method, coalesce(version, '') AS version, count(*) AS num
        FROM duplicates WHERE clip_id <> of_clip_id GROUP BY ALL ORDER BY ALL""",
    "quarantine": """
        SELECT coalesce(stage, '') AS stage, coalesce(reason, '') AS reason, count(*) AS num,
            count(*) FILTER (retryable) AS num_retryable
        FROM quarantine GROUP BY ALL ORDER BY num DESC, stage, reason""",
}


def show(root: str) -> Answer:
    """Return the counts of a dataset."""
    dataset = Dataset.open(root)
    facts: dict[str, Any] = {"root": dataset.root}
    facts["tables"] = {table: _table(dataset, table) for table in SCHEMAS}
    versions: dict[TableName, int] = {table: facts["tables"][table]["version"] for table in SCHEMAS}
    for name, sql in _QUERIES.items():
        with query(dataset, sql, versions) as rows:
            facts[name] = rows.read_all().to_pylist()
    facts["releases"] = [_release(dataset.root, name) for name in releases.names(dataset.root)]
    return Answer("\n".join(_lines(facts)), facts)


def _table(dataset: Dataset, table: TableName) -> dict[str, int]:
    """Return a table's version, rows, and the files and bytes that hold them."""
    version = dataset.version(table)
    if version < 0:
        return {"version": -1, "num_rows": 0, "num_files": 0, "size_bytes": 0}
    found = open_table(dataset.root, table, version)
    added = pa.table(found.get_add_actions(flatten=True))
    return {
        "version": version,
        "num_rows": _sum(added, "num_records"),
        "num_files": len(added),
        "size_bytes": _sum(added, "size_bytes"),
    }


def _sum(rows: pa.Table, column: str) -> int:
    return sum(value or 0 for value in rows[column].to_pylist())


def _release(root: str, name: str) -> dict[str, Any]:
    found = releases.load(root, name)
    return {
        "name": name,
        "num_clips": found.num_clips,
        "digest": found.digest,
        "created_at": found.created_at,
    }


def _lines(facts: Mapping[str, Any]) -> list[str]:
    tables = [
        (
            table,
            f"version {one['version']}",
            f"{one['num_rows']} rows",
            f"{one['num_files']} files",
            words.size(one["size_bytes"]),
        )
        for table, one in facts["tables"].items()
    ]
    lines = [f"dataset {facts['root']}", *words.columns(tables)]
    for title, rows in _blocks(facts).items():
        lines += [title, *(words.columns(rows) or ["  none"])]
    return lines


def _blocks(facts: Mapping[str, Any]) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows below each title."""
    return {
        "clips": [
            (
                *(one["kind"], one["mode"], one["num"], f"{one['seconds'] / 3600:.2f} h"),
                *(words.size(one["size_bytes"]), f"about {one['about_sources']} sources"),
            )
            for one in facts["clips"]
        ],
        "sources, by what became of them": [
            (one["status"], one["reason"], one["num"], words.size(one["size_bytes"]))
            for one in facts["sources"]
        ],
        "partitions": _partitions(facts["partitions"]),
        "captions": [
            (one["origin"], one["status"], one["num"], one["model"], one["recipe_id"][:16])
            for one in facts["captions"]
        ],
        f"scores: least, quantiles {', '.join(f'{q:g}' for q in _QUANTILES)}, most": [
            (
                *(one["scorer"], one["version"], one["num"]),
                *(_short(v) for v in (one["least"], *one["quantiles"], one["most"])),
            )
            for one in facts["scores"]
        ],
        "doubles left out": [
            (one["method"], one["version"], one["num"]) for one in facts["duplicates"]
        ],
        "quarantine": [
            (one["stage"], one["reason"], one["num"], f"{one['num_retryable']} may be tried again")
            for one in facts["quarantine"]
        ],
        "releases": [
            (one["name"], f"{one['num_clips']} clips", one["created_at"], one["digest"][:16])
            for one in facts["releases"]
        ],
    }


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) > _NOTHING else "0"


def _partitions(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        (
            *(one["name"] or "(none)", f"{one['num_sources']} sources"),
            *(f"{one['num_ok']} ok", f"{one['num_clips']} clips"),
        )
        for one in found[:_PARTITIONS]
    ]
    if len(found) > _PARTITIONS:
        rows.append((f"and {len(found) - _PARTITIONS} more", "", "", ""))
    return rows
