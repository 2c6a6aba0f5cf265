"""Write the captions that are missing: an anti-join, then frames -> model -> table on Ray Data.

A clip is stale when it has no human caption and no usable one of this recipe for these very
bytes. Captions are committed block by block, so a run that is killed repeats at most one block,
and a run that is repeated writes nothing twice. Human captions are never touched.

    counts = caption_clips("s3://bucket/corpus", None, settings, run_id="2026-11-20")
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from captioning.config import CaptionSettings, FrameSettings
from captioning.frames import load
from captioning.model import Batch, Captioner
from captioning.recipe import Recipe, recipe
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.video import VideoError

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all) after each commit."""

_MEDIA = ["clip_id", "media_sha256", "media_file", "media_row", "media_offset", "media_length"]
_MEDIA += ["media_crc32c"]


@dataclass(frozen=True)
class CaptionCounts:
    """What one call wrote."""

    num_stale: int
    by_status: dict[str, int]
    recipe_id: str
    seconds: float


def stale(dataset: Dataset, recipe_id: str, clip_ids: Sequence[str] | None = None) -> pa.Table:
    """Return where the media of clips lie that need a caption of this recipe.

    Args:
        dataset: Whose clips.
        recipe_id: Of the recipe that is wanted.
        clip_ids: Look at these clips only; None is all.
    """
    wanted = None if clip_ids is None else pc.field("clip_id").isin(list(clip_ids))
    clips = dataset.read("clips", columns=_MEDIA, where=wanted)
    usable = (pc.field("origin") == "human") | (
        (pc.field("recipe_id") == recipe_id) & (pc.field("status") == "ok")
    )
    held = dataset.read("captions", columns=["clip_id", "origin", "media_sha256"], where=usable)
    human = set(held.filter(pc.field("origin") == "human")["clip_id"].to_pylist())
    fresh = set(zip(held["clip_id"].to_pylist(), held["media_sha256"].to_pylist(), strict=True))
    rows = zip(clips["clip_id"].to_pylist(), clips["media_sha256"].to_pylist(), strict=True)
    needed = [clip not in human and (clip, sha) not in fresh for clip, sha in rows]
    return clips.filter(pa.array(needed, pa.bool_()))


def caption_clips(
    dataset_root: str,
    clip_ids: Sequence[str] | None,
    settings: CaptionSettings,
    run_id: str,
    on_progress: Progress | None = None,
) -> CaptionCounts:
    """Caption what is stale and return the counts; Ray is running.

    Args:
        dataset_root: Of an existing dataset.
        clip_ids: Look at these clips only; None is all.
        settings: The recipe, and how to run it.
        run_id: Written into each row.
        on_progress: Called after each commit.

    Raises:
        ConfigError: The model or prompt cannot be loaded.
        DataError: More than `max_failed_share` of the clips got no usable caption.
    """
    started_s = time.monotonic()
    dataset, made_with = Dataset.open(dataset_root), recipe(settings)
    rows = stale(dataset, made_with.recipe_id, clip_ids)
    counts: dict[str, int] = {}
    if len(rows):
        _keep_recipe(dataset, made_with, run_id)
        report = on_progress or _log_progress(started_s)
        for commit in captions(rows, dataset, settings, made_with, run_id).iter_rows():
            counts[commit["status"]] = counts.get(commit["status"], 0) + commit["num_clips"]
            report(sum(counts.values()), len(rows))
    _check_failed(counts, settings.max_failed_share)
    seconds = time.monotonic() - started_s
    log.info("captioned clips=%d by_status=%s seconds=%.1f", len(rows), counts, seconds)
    return CaptionCounts(len(rows), counts, made_with.recipe_id, seconds)


def captions(
    rows: pa.Table, dataset: Dataset, settings: CaptionSettings, made_with: Recipe, run_id: str
) -> ray.data.Dataset:
    """Turn clips into committed captions; what comes out are counts."""
    clips = ray.data.from_arrow(rows).repartition(_num_blocks(len(rows), settings))
    shown = clips.map(partial(_show, root=dataset.root, settings=settings.frames))  # 1 -> 1
    written = shown.map_batches(
        Captioner,
        fn_constructor_args=(settings,),
        batch_size=settings.batch,
        compute=ray.data.ActorPoolStrategy(size=settings.num_workers),
        num_gpus=settings.gpus_per_worker,
    )
    return written.map_batches(  # one committer, so that commits do not race
        partial(_commit, dataset=dataset, made_with=made_with, run_id=run_id),
        batch_size=settings.clips_per_commit,
        compute=ray.data.TaskPoolStrategy(size=1),
    )


def _num_blocks(num_rows: int, settings: CaptionSettings) -> int:
    return max(1, num_rows // settings.clips_per_commit)


def _show(row: dict[str, Any], root: str, settings: FrameSettings) -> dict[str, Any]:
    """Add the frames that the model sees, or why there are none."""
    kept = {"clip_id": row["clip_id"], "media_sha256": row["media_sha256"]}
    try:
        frames = load(read_media(root, row), settings)
    except (VideoError, DataError) as fault:
        log.warning("clip cannot be shown clip=%s fault=%s", row["clip_id"], fault)
        return kept | {"frames": b"", "shape": [0, 0, 0, 0], "error": str(fault)}
    return kept | {"frames": frames.tobytes(), "shape": list(frames.shape), "error": ""}


def _commit(batch: Batch, dataset: Dataset, made_with: Recipe, run_id: str) -> Batch:
    """Append a block of captions in one commit; return how many of each status."""
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
    rows = []
    for index in range(len(batch["clip_id"])):
        row = {name: column[index].item() if hasattr(column[index], "item") else column[index]
               for name, column in batch.items()}  # fmt: skip
        row["caption_id"] = _caption_id(row, made_with.recipe_id, run_id)
        rows.append(row | constant)
    dataset.append_new("captions", rows, key=("caption_id",))
    statuses, numbers = np.unique(batch["status"].astype(str), return_counts=True)
    return {"status": statuses, "num_clips": numbers}


def _caption_id(row: dict[str, Any], recipe_id: str, run_id: str) -> str:
    """Name a usable caption by what made it; a failed one also by its run, to be tried again."""
    words = [row["clip_id"], row["media_sha256"], recipe_id]
    if row["status"] != "ok":
        words += [row["status"], run_id]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:32]


def _keep_recipe(dataset: Dataset, made_with: Recipe, run_id: str) -> None:
    row = asdict(made_with) | {"recipe_id": made_with.recipe_id, "run_id": run_id}
    dataset.append_new("recipes", [row], key=("recipe_id",))


def _check_failed(counts: dict[str, int], max_failed_share: float) -> None:
    total = sum(counts.values())
    failed = total - counts.get("ok", 0)
    if failed > max_failed_share * total:
        raise DataError(
            f"captions: {failed} of {total} clips got no usable caption ({counts}), more than "
            f"captioning.max_failed_share = {max_failed_share}; read the captions table's status "
            "and error, and mend the model, the prompt or captioning.max_new_tokens"
        )


def _log_progress(started_s: float) -> Progress:
    def report(done: int, total: int) -> None:
        rate = done / (time.monotonic() - started_s)
        left_s = (total - done) / rate
        log.info("captioned clips=%d of=%d per_s=%.1f left_s=%.0f", done, total, rate, left_s)

    return report
