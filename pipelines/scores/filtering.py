"""Which clips count by their scores, and why the others do not: SQL, no decoding.

A policy is a set of bounds; its id is a hash of them. Each clip that a bound refuses gets a row in
`quarantine` (stage `filter`) with the reason; clips stay in the tables, and it is the bounds in a
`Selection` that leave them out. So other thresholds are another policy, and nothing is taken back.

    result = apply(dataset, settings.bounds(), Selection(transform_id=...), run_id)
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from infra.store.choose import MEASURES, bound_sql, selected_sql
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.selection import OF_THE_CLIP, Bound, Selection

log = logging.getLogger(__name__)

STAGE = "filter"

_ROWS_PER_COMMIT = 20_000


@dataclass(frozen=True)
class Filtered:
    """What a policy does to the clips of a scope."""

    policy_id: str
    num_clips: int
    """Clips that were looked at."""
    num_refused: int
    """Clips that a bound refuses."""
    by_reason: Mapping[str, int]
    """Refused clips by reason; a clip may have several."""
    num_told: int
    """Rows that were added to quarantine now."""


def apply(dataset: Dataset, bounds: Sequence[Bound], scope: Selection, run_id: str) -> Filtered:
    """Say in quarantine which clips of a scope the bounds refuse, and why; safe to repeat.

    Args:
        dataset: Whose clips.
        bounds: What must hold (see `FilterSettings.bounds`).
        scope: Which clips are looked at; its own bounds and doubles are not heeded.
        run_id: Written into each row.
    """
    scope = scope.model_copy(update={"bounds": (), "duplicate_versions": ()})
    policy_id = policy_of(bounds)
    num_clips = _count(dataset, scope)
    if not bounds:
        return Filtered(policy_id, num_clips, 0, {}, 0)
    sql, parameters = _refused_sql(bounds, scope)
    told = 0
    for block in _untold(dataset, sql, parameters, policy_id):
        constant = {"policy_id": policy_id, "stage": STAGE, "run_id": run_id}
        for name, word in constant.items():
            block = block.append_column(name, pa.array([word] * len(block), pa.string()))
        block = block.append_column("attempts", pa.array([1] * len(block), pa.int64()))
        told += dataset.append_new("quarantine", block, ("clip_id", "policy_id", "reason"))
    num_refused, by_reason = _counts(dataset, sql, parameters)
    log.info(
        "filter policy=%s clips=%d refused=%d by_reason=%s",
        *(policy_id, num_clips, num_refused, by_reason),
    )
    return Filtered(policy_id, num_clips, num_refused, by_reason, told)


def policy_of(bounds: Sequence[Bound]) -> str:
    """Return the identity of a set of bounds, whatever their order."""
    words = sorted(json.dumps(bound.model_dump(mode="json"), sort_keys=True) for bound in bounds)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _count(dataset: Dataset, scope: Selection) -> int:
    chosen, values = selected_sql(scope)
    with query(dataset, f"SELECT count(*) AS num FROM ({chosen})", parameters=values) as rows:
        return int(rows.read_all()["num"][0].as_py())


def _refused_sql(bounds: Sequence[Bound], scope: Selection) -> tuple[str, list[object]]:
    """Return a SELECT of one row a refused clip and bound, and its parameters."""
    chosen, values = selected_sql(scope)
    parts, parameters = [], list(values)
    for bound in bounds:
        part, more = _bound_sql(bound)
        parts.append(part)
        parameters += more
    return f"WITH chosen AS ({chosen}) " + " UNION ALL ".join(parts), parameters


def _bound_sql(bound: Bound) -> tuple[str, list[object]]:
    """Return a SELECT of the chosen clips that one bound refuses."""
    test, tested = bound_sql(bound)
    joined, scored, name = "", [], bound.scorer
    assert name.isidentifier(), name
    if bound.version == OF_THE_CLIP:
        value = f"({MEASURES[name]})::DOUBLE"
    else:
        value = "s.value"
        joined = (
            "LEFT JOIN (SELECT clip_id, any_value(value) AS value FROM scores "
            "WHERE scorer = ? AND version = ? GROUP BY clip_id) s ON s.clip_id = c.clip_id"
        )
        scored = [name, bound.version]
    sql = (
        "SELECT source_uri, source_id, clip_id, CASE "
        f"WHEN value IS NULL OR isnan(value) THEN 'no_{name}' "
        f"WHEN value < ?::DOUBLE THEN 'low_{name}' ELSE 'high_{name}' END AS reason, CASE "
        f"WHEN value IS NULL OR isnan(value) THEN '{name} is not measured' "
        f"WHEN value < ?::DOUBLE THEN format('{name} {{:.4g}} < {{:.4g}}', value, ?::DOUBLE) "
        f"ELSE format('{name} {{:.4g}} > {{:.4g}}', value, ?::DOUBLE) END AS message, "
        "(value IS NULL OR isnan(value)) AS retryable "
        f"FROM (SELECT c.source_uri, c.source_id, c.clip_id, {value} AS value "
        f"FROM (SELECT * FROM chosen WHERE ({test}) IS NOT TRUE) c {joined})"
    )
    return sql, [bound.least, bound.least, bound.least, bound.most, *tested, *scored]


def _untold(
    dataset: Dataset, sql: str, parameters: list[object], policy_id: str
) -> Iterator[pa.Table]:
    """Yield refused rows that quarantine does not hold, as many as enter one commit."""
    whole = (
        f"SELECT r.* FROM ({sql}) r ANTI JOIN (SELECT clip_id, reason FROM quarantine "
        "WHERE stage = 'filter' AND policy_id = ?) q "
        "ON q.clip_id = r.clip_id AND q.reason = r.reason"
    )
    held: list[pa.RecordBatch] = []
    with query(dataset, whole, parameters=[*parameters, policy_id]) as rows:
        for batch in rows:
            held.append(batch)
            if sum(len(part) for part in held) >= _ROWS_PER_COMMIT:
                yield pa.Table.from_batches(held)
                held = []
        if any(len(part) for part in held):
            yield pa.Table.from_batches(held)


def _counts(dataset: Dataset, sql: str, parameters: list[object]) -> tuple[int, dict[str, int]]:
    """Return how many clips are refused, and how many for each reason."""
    grouped = (
        f"WITH refused AS ({sql}) SELECT reason, count(*) AS num FROM refused GROUP BY reason "
        "UNION ALL SELECT '', count(DISTINCT clip_id) FROM refused ORDER BY reason"
    )
    with query(dataset, grouped, parameters=parameters) as rows:
        found = {str(row["reason"]): int(row["num"]) for row in rows.read_all().to_pylist()}
    total = found.pop("", 0)
    return total, found
