"""Captions: train a small captioner where no model is named, then write what is missing."""

import logging
from collections.abc import Sequence

import pyarrow.compute as pc

from infra import storage
from infra.store.dataset import Dataset
from pipelines.config import LOCAL, RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.stages.ingest import own_clips

log = logging.getLogger(__name__)

NEUTRAL = tuple(
    f"captioning.{name}"
    for name in (
        "batch", "clips_per_commit", "device", "gpus_per_worker", "max_failed_share", "num_workers"
    )
)  # fmt: skip
CAPTIONER_NEUTRAL = ("captioner.num_threads", "captioner.report_every", "captioner.save_every")


def build_captioner(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Name the captioner: the configured one, or a small one trained on the human captions."""
    from captioning.local import train_local

    (task,) = tasks
    if config.captioning.model != LOCAL:
        runtime.commit(task, {"model": config.captioning.model})
        return
    folder = storage.join(runtime.keyed_folder(task), "captioner")
    train_local(runtime.dataset, own_clips(runtime, task), config.captioner, folder)
    runtime.commit(task, {"model": folder})


def write_captions(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Caption what is stale in all partitions at once, so that the model loads once."""
    from captioning.refresh import caption_clips

    (captioner,) = runtime.inputs(tasks[0], "captioner")
    settings = config.captioning.model_copy(update={"model": captioner.outputs["model"]})
    clips = {task.partition: own_clips(runtime, task) for task in tasks}
    everything = sorted({clip for ids in clips.values() for clip in ids})
    counts = caption_clips(runtime.dataset, everything, settings, run_id=tasks[0].key)
    log.info("captions by status %s", counts.by_status)
    for task in tasks:
        written = _written(runtime, clips[task.partition], counts.recipe_id)
        runtime.commit(task, {"recipe_id": counts.recipe_id, "num_ok": written})


def _written(runtime: Runtime, clips: list[str], recipe_id: str) -> int:
    """Return how many of the clips have a usable caption of the recipe."""
    ok = (pc.field("recipe_id") == recipe_id) & (pc.field("status") == "ok")
    where = ok & pc.field("clip_id").isin(clips)
    return len(Dataset.open(runtime.dataset).read("captions", columns=["clip_id"], where=where))
