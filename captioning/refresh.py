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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from captioning.config import CaptionSettings, FrameSettings
from captioning.frames import load
from captioning.model import Captioner, check_model
from captioning.recipe import Recipe, recipe
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.video import VideoError

log = logging.getLogger(__name__)

Row = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all) after each commit."""

_MEDIA = ["clip_id", "media_sha256", "media_file", "media_row", "media_offset", "media_length"]
_MEDIA += ["media_crc32c"]


@dataclass(frozen=True)
class CaptionCounts:
    """What one call wrote."""

    num_stale: int
    by_status: Mapping[str, int]
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
    report = on_progress or _log_progress(started_s)
    counts: Counter[str] = Counter()
    if len(rows):
        check_model(settings)
        _keep_recipe(dataset, made_with, run_id)
        written = captions(rows, dataset.root, settings)
        size = settings.clips_per_commit
        for block in written.iter_batches(batch_size=size, batch_format="pyarrow"):
            assert isinstance(block, pa.Table)
            _commit(block.to_pylist(), dataset, made_with, run_id)
            counts.update(str(status) for status in block["status"].to_pylist())
            report(counts.total(), len(rows))
    _check_failed(counts, settings.max_failed_share)
    seconds = time.monotonic() - started_s
    log.info("captioned clips=%d by_status=%s seconds=%.1f", len(rows), dict(counts), seconds)
    return CaptionCounts(len(rows), dict(counts), made_with.recipe_id, seconds)


def captions(rows: pa.Table, root: str, settings: CaptionSettings) -> ray.data.Dataset:
    """Turn clips into what the model says about them; lazy."""
    clips = ray.data.from_arrow(rows).repartition(_num_blocks(len(rows), settings))
    shown = clips.map(partial(_show, root=root, settings=settings.frames))  # 1 -> 1
    return shown.map_batches(  # 1 -> 1
        Captioner,
        fn_constructor_args=(settings,),
        batch_size=settings.batch,
        compute=ray.data.ActorPoolStrategy(size=settings.num_workers),
        num_gpus=settings.gpus_per_worker,
    )


def _num_blocks(num_rows: int, settings: CaptionSettings) -> int:
    return max(1, num_rows // settings.clips_per_commit)


def _show(row: Row, root: str, settings: FrameSettings) -> Row:
    """Add the frames that the model sees, or why there are none."""
    kept = {"clip_id": row["clip_id"], "media_sha256": row["media_sha256"]}
    try:
        frames = load(read_media(root, row), settings)
    except (VideoError, DataError) as fault:
        log.warning("clip cannot be shown clip=%s fault=%s", row["clip_id"], fault)
        return kept | {"frames": b"", "shape": [0, 0, 0, 0], "error": str(fault)}
    return kept | {"frames": frames.tobytes(), "shape": list(frames.shape), "error": ""}


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
