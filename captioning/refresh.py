"""Write the captions that are missing: an anti-join, then frames -> model -> table on Ray Data.

A clip is stale when it has no human caption and no usable one of this recipe for these very
bytes. Captions are committed block by block, so a run that is killed repeats at most one block,
and a run that is repeated writes nothing twice. Human captions are never touched.

    counts = caption_clips("s3://bucket/corpus", None, settings, run_id="2026-11-20")
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from captioning.chosen import Chosen, chosen_sql
from captioning.config import CaptionSettings
from captioning.frames import show
from captioning.model import Captioner, check_model
from captioning.recipe import Recipe, recipe
from infra import storage
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.work import laid

log = logging.getLogger(__name__)

Row = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all) after each commit."""

_MEDIA = ["clip_id", "media_sha256", "media_file", "media_row", "media_offset", "media_length"]
_MEDIA += ["media_crc32c"]
_STALE = """
WITH wanted AS ({taken})
SELECT {columns} FROM wanted w
WHERE NOT EXISTS (
  SELECT 1 FROM captions c WHERE c.clip_id = w.clip_id AND (
    c.origin = 'human'
    OR c.recipe_id = ? AND c.status = 'ok' AND c.media_sha256 = w.media_sha256
  )
)
ORDER BY clip_id
"""


@dataclass(frozen=True)
class CaptionCounts:
    """What one call wrote."""

    num_stale: int
    by_status: Mapping[str, int]
    recipe_id: str
    seconds: float


def stale_sql(recipe_id: str, chosen: Chosen | None = None) -> tuple[str, list[object]]:
    """Return a SELECT of where the media of clips lie that need a caption, and its parameters.

    Args:
        recipe_id: Of the recipe that is wanted.
        chosen: Look at these clips only; None is all.
    """
    taken, values = chosen_sql(chosen) if chosen is not None else ("SELECT * FROM clips", [])
    return _STALE.format(columns=", ".join(_MEDIA), taken=taken), [*values, recipe_id]


def num_captioned(dataset: Dataset, chosen: Chosen, recipe_id: str) -> int:
    """Return how many of the clips have a usable caption of the recipe."""
    taken, values = chosen_sql(chosen)
    sql = (
        "SELECT count(*) AS num FROM captions WHERE status = 'ok' AND "
        f"clip_id IN (SELECT clip_id FROM ({taken})) AND recipe_id = ?"
    )
    with query(dataset, sql, parameters=[*values, recipe_id]) as rows:
        return int(rows.read_all()["num"][0].as_py())


def caption_clips(
    dataset_root: str,
    chosen: Chosen | None,
    settings: CaptionSettings,
    run_id: str,
    on_progress: Progress | None = None,
) -> CaptionCounts:
    """Caption what is stale and return the counts; Ray is running.

    Args:
        dataset_root: Of an existing dataset.
        chosen: Look at these clips only; None is all.
        settings: The recipe, and how to run it.
        run_id: Written into each row.
        on_progress: Called after each commit.

    Raises:
        ConfigError: The model or prompt cannot be loaded.
        DataError: More than `max_failed_share` of the clips got no usable caption.
    """
    started_s = time.monotonic()
    dataset, made_with = Dataset.open(dataset_root), recipe(settings)
    report = on_progress or _log_progress(started_s)
    counts: Counter[str] = Counter()
    with laid(dataset, *stale_sql(made_with.recipe_id, chosen)) as (folder, num_stale):
        if num_stale:
            check_model(settings)
            _keep_recipe(dataset, made_with, run_id)
            written = captions(folder.rows, num_stale, dataset.root, settings)
            size = settings.clips_per_commit
            for block in written.iter_batches(batch_size=size, batch_format="pyarrow"):
                assert isinstance(block, pa.Table)
                _commit(block.to_pylist(), dataset, made_with, run_id)
                folder.keep()
                counts.update(str(status) for status in block["status"].to_pylist())
                report(counts.total(), num_stale)
    _check_failed(counts, settings.max_failed_share)
    seconds = time.monotonic() - started_s
    log.info("captioned clips=%d by_status=%s seconds=%.1f", num_stale, dict(counts), seconds)
    return CaptionCounts(num_stale, dict(counts), made_with.recipe_id, seconds)


def captions(folder: str, num_rows: int, root: str, settings: CaptionSettings) -> ray.data.Dataset:
    """Turn clips into what the model says about them; lazy."""
    files, path = storage.filesystem(folder)
    rows = ray.data.read_parquet(path, filesystem=files)
    clips = rows.repartition(_num_blocks(num_rows, settings))
    shown = clips.map(partial(show, root=root, settings=settings.frames))  # 1 -> 1
    return shown.map_batches(  # 1 -> 1
        Captioner,
        fn_constructor_args=(settings,),
        batch_size=settings.batch,
        compute=ray.data.ActorPoolStrategy(size=settings.num_workers),
        num_gpus=settings.gpus_per_worker,
    )


def _num_blocks(num_rows: int, settings: CaptionSettings) -> int:
    return max(1, num_rows // settings.clips_per_commit)


def _commit(rows: list[Row], dataset: Dataset, made_with: Recipe, run_id: str) -> None:
    """Append a block of captions in one commit."""
    constant = {
        "lang": "en",
        "origin": "synthetic",
        "recipe_id": made_with.recipe_id,
        "model": made_with.model,
        "model_revision": made_with.model_revision,
        "prompt_id": made_with.prompt_id,
        "frame_policy": made_with.frame_policy,
        "run_id": run_id,
    }
    for row in rows:
        row |= constant | {"caption_id": _caption_id(row, made_with.recipe_id, run_id)}
    dataset.append_new("captions", rows, key=("caption_id",))


def _caption_id(row: Row, recipe_id: str, run_id: str) -> str:
    """Name a usable caption by what made it; a failed one also by its run, to be tried again."""
    words = [row["clip_id"], row["media_sha256"], recipe_id]
    if row["status"] != "ok":
        words += [row["status"], run_id]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:32]


def _keep_recipe(dataset: Dataset, made_with: Recipe, run_id: str) -> None:
    row = asdict(made_with) | {"recipe_id": made_with.recipe_id, "run_id": run_id}
    dataset.append_new("recipes", [row], key=("recipe_id",))


def _check_failed(counts: Counter[str], max_failed_share: float) -> None:
    total = counts.total()
    failed = total - counts["ok"]
    if failed > max_failed_share * total:
        raise DataError(
            f"captions: {failed} of {total} clips got no usable caption ({dict(counts)}), more "
            f"than captioning.max_failed_share = {max_failed_share}; read status and error in the "
            "captions table, and mend the model, the prompt or captioning.max_new_tokens"
        )


def _log_progress(started_s: float) -> Progress:
    def report(done: int, total: int) -> None:
        rate = done / (time.monotonic() - started_s)
        left_s = (total - done) / rate
        log.info("captioned clips=%d of=%d per_s=%.1f left_s=%.0f", done, total, rate, left_s)

    return report
