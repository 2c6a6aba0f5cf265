"""Captions: train a small captioner where no model is named, then write what is missing."""

import logging
from collections.abc import Sequence

from infra import storage
from infra.store.dataset import Dataset
from pipelines.config import LOCAL, RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.stages.ingest import chosen

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
    train_local(runtime.dataset, chosen(runtime, task), config.captioner, folder)
    runtime.commit(task, {"model": folder})


def write_captions(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Caption what is stale in all partitions at once, so that the model loads once."""
    from captioning.refresh import caption_clips, num_captioned

    (captioner,) = runtime.inputs(tasks[0], "captioner")
    settings = config.captioning.model_copy(update={"model": captioner.outputs["model"]})
    clips = chosen(runtime, *tasks)
    counts = caption_clips(runtime.dataset, clips, settings, run_id=tasks[0].key)
    log.info("captions by status %s", counts.by_status)
    dataset = Dataset.open(runtime.dataset)
    for task in tasks:
        written = num_captioned(dataset, chosen(runtime, task), counts.recipe_id)
        runtime.commit(task, {"recipe_id": counts.recipe_id, "num_ok": written})
