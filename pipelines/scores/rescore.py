"""Measure signal scores that are missing or of an earlier version, from the stored clips.

rescore(dataset, Selection(transform_id=...), clips_per_commit=1000, run_id="2026-11-20")

Of a clip so long that its thumbnails lie too far apart, motion cannot be told. It gets the scores
`motion_untold` and so on, each 1, of the version that was tried, so no pass decodes it again.
"""

import logging
from functools import partial

import pyarrow as pa
import ray.data

from infra.errors import DataError
from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.selection import Selection
from infra.video import VideoError
from pipelines.ingest_config import AcceptSettings
from pipelines.scores.signals import measure
from pipelines.scores.versions import OF_MOTION, VERSIONS, expected
from pipelines.scores.work import MEDIA, Pass, Row, run_pass
from pipelines.steps.scan import scan

log = logging.getLogger(__name__)

KEY = ("clip_id", "scorer", "version")
_UNTOLD = "_untold"


def rescore(dataset: Dataset, scope: Selection, clips_per_commit: int, run_id: str) -> Pass:
    """Measure what is missing of the clips of a scope; Ray is running.

    Args:
        dataset: Whose.
        scope: Which clips.
        clips_per_commit: Clips between two commits.
        run_id: Written into each row.
    """

    def commit(block: pa.Table) -> None:
        dataset.append_new("scores", signal_rows(block, run_id), KEY)

    def work(rows: ray.data.Dataset) -> ray.data.Dataset:
        return rows.map(partial(_measured, root=dataset.root))  # 1 clip -> its scores

    return run_pass(dataset, "signals", missing_sql(scope), work, commit, clips_per_commit)


def missing_sql(scope: Selection) -> tuple[str, list[object]]:
    """Return a SELECT of where the media of clips lie that lack a score, and its parameters."""
    chosen, values = selected_sql(scope)
    done = [*VERSIONS.items(), *((name + _UNTOLD, VERSIONS[name]) for name in OF_MOTION)]
    pairs = ", ".join("(?, ?)" for _ in done)
    sql = (
        f"SELECT {', '.join(f'c.{name}' for name in MEDIA)} FROM ({chosen}) c LEFT JOIN ("
        f"SELECT clip_id, count(DISTINCT replace(scorer, '{_UNTOLD}', '')) AS num FROM scores "
        f"WHERE (scorer, version) IN ({pairs}) GROUP BY clip_id) s ON s.clip_id = c.clip_id "
        "WHERE coalesce(s.num, 0) < CASE c.kind WHEN 'image' THEN ? ELSE ? END ORDER BY c.clip_id"
    )
    versions = [word for pair in done for word in pair]
    return sql, [*values, *versions, len(expected("image")), len(expected("video"))]


def signal_rows(block: pa.Table, run_id: str) -> list[Row]:
    """Return rows of the scores table for rows with `clip_id`, `scorers` and `scored`."""
    return [
        {
            "clip_id": row["clip_id"],
            "scorer": scorer,
            "version": VERSIONS[scorer.removesuffix(_UNTOLD)],
            "value": value,
            "run_id": run_id,
        }
        for row in block.to_pylist()
        for scorer, value in zip(row["scorers"], row["scored"], strict=True)
    ]


def _measured(row: Row, root: str) -> Row:
    """Return the scores of one stored clip, or why it has none."""
    try:
        data = read_media(root, row)
        scores = measure(data, scan(data, AcceptSettings()))
    except (VideoError, DataError) as fault:
        log.warning("clip cannot be measured clip=%s fault=%s", row["clip_id"], fault)
        return {"clip_id": row["clip_id"], "scorers": [""], "scored": [0.0], "error": str(fault)}
    if row["kind"] != "image":
        scores |= {name + _UNTOLD: 1.0 for name in OF_MOTION if name not in scores}
    return {
        "clip_id": row["clip_id"],
        "scorers": list(scores),
        "scored": list(scores.values()),
        "error": "",
    }
