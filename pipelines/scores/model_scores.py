"""Write the scores and vectors of models that are missing: an anti-join, then frames, then a model.

model_scores(dataset, scorer, Selection(transform_id=...), settings, run_id="2026-11-20")
"""

from functools import partial

import pyarrow as pa
import ray.data

from captioning.config import FrameSettings
from captioning.frames import show
from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.scores.config import ModelScorer, ScoreSettings
from pipelines.scores.rescore import KEY
from pipelines.scores.scorers import Scorer, check, version_of
from pipelines.scores.work import MEDIA, Pass, Row, run_pass


def model_scores(
    dataset: Dataset, scorer: ModelScorer, scope: Selection, settings: ScoreSettings, run_id: str
) -> Pass:
    """Score what lacks this scorer's value or vector, of the clips of a scope; Ray is running.

    Args:
        dataset: Whose.
        scorer: Which model, and how it is asked.
        scope: Which clips.
        settings: How models are run.
        run_id: Written into each row.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    check(scorer)
    version = version_of(scorer)
    seen = FrameSettings(num_frames=scorer.num_frames, max_side_px=scorer.max_side_px)

    def commit(block: pa.Table) -> None:
        if scorer.how == "vectors":
            rows = _vector_rows(block, version, run_id)
            dataset.append_new("vectors", rows, ("clip_id", "encoder_id"))
        else:
            dataset.append_new("scores", _score_rows(block, scorer.name, version, run_id), KEY)

    def work(rows: ray.data.Dataset) -> ray.data.Dataset:
        shown = rows.map(partial(show, root=dataset.root, settings=seen))  # 1 -> 1
        return shown.map_batches(  # 1 -> 1
            Scorer,
            fn_constructor_args=(scorer, settings.device),
            batch_size=settings.batch,
            compute=ray.data.ActorPoolStrategy(size=settings.num_workers),
            num_gpus=settings.gpus_per_worker,
        )

    wanted = _missing_sql(scorer, version, scope)
    return run_pass(dataset, scorer.name, wanted, work, commit, settings.clips_per_commit)


def _missing_sql(scorer: ModelScorer, version: str, scope: Selection) -> tuple[str, list[object]]:
    chosen, values = selected_sql(scope)
    held, keys = (
        "SELECT clip_id FROM scores WHERE scorer = ? AND version = ?",
        [scorer.name, version],
    )
    if scorer.how == "vectors":
        held, keys = "SELECT clip_id FROM vectors WHERE encoder_id = ?", [version]
    listed = ", ".join(f"c.{name}" for name in MEDIA)
    sql = f"SELECT {listed} FROM ({chosen}) c ANTI JOIN ({held}) h ON h.clip_id = c.clip_id"
    return f"{sql} ORDER BY c.clip_id", [*values, *keys]


def _score_rows(block: pa.Table, scorer: str, version: str, run_id: str) -> list[Row]:
    constant = {"scorer": scorer, "version": version, "run_id": run_id}
    return [
        constant | {"clip_id": row["clip_id"], "value": row["value"]} for row in block.to_pylist()
    ]


def _vector_rows(block: pa.Table, encoder_id: str, run_id: str) -> list[Row]:
    return [
        {
            "clip_id": row["clip_id"],
            "encoder_id": encoder_id,
            "width": len(row["vector"]) // 2,
            "values": row["vector"],
            "run_id": run_id,
        }
        for row in block.to_pylist()
    ]
