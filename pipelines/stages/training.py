"""Train both stages of the cascade and register what comes out."""

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from infra import storage, tracking
from infra.config import to_yaml
from infra.errors import ConfigError
from infra.provenance import package_versions
from infra.store import cache, index
from infra.store.release import load
from infra.store.selection import KINDS
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.serving import STAGE1, STAGE2
from pipelines.stages.texts import text_settings
from train.config import TrainSettings

if TYPE_CHECKING:
    from train.run import TrainJob

log = logging.getLogger(__name__)

_NEUTRAL = (
    "gpus", "keep", "max_failures", "num_workers", "report_every", "save_every", "threads",
    "reader.cache_mib", "reader.disk_cache", "reader.disk_cache_mib", "reader.fetch_threads",
    "reader.processes", "reader.read_ahead",
)  # fmt: skip


def neutral(section: str) -> tuple[str, ...]:
    """Return the settings of a training section that leave its result as it is."""
    return tuple(f"{section}.{name}" for name in _NEUTRAL)


def check_cascade(config: RunConfig) -> None:
    """Refuse presets that do not make a cascade, before the first of them is trained.

    Raises:
        ConfigError: The first stage is an upsampler, or the second is none of the first's.
    """
    from train.blueprint import Blueprint

    below = None
    for section, settings in (("stage1", config.stage1), ("stage2", config.stage2)):
        try:
            below = Blueprint.build(settings, config.text_width, below).to_config()
        except ConfigError as fault:
            raise ConfigError(f"{section}.{fault}") from fault


def train_stage1(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Train the low-resolution model."""
    (task,) = tasks
    _train(task, config, runtime, 1, _whole(runtime).stage1, "", STAGE1)


def train_stage2(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Train the upsampler, starting from the first stage's averaged weights."""
    (task,) = tasks
    (below,) = runtime.inputs(task, "stage1")
    _train(task, config, runtime, 2, _whole(runtime).stage2, below.outputs["bundle"], STAGE2)


def _train(
    task: Task,
    config: RunConfig,
    runtime: Runtime,
    stage: Literal[1, 2],
    settings: TrainSettings,
    init_bundle: str,
    model: str,
) -> None:
    from train.run import train_stage

    tracker = tracking.connect(_whole(runtime).tracking, runtime.workspace)
    result = train_stage(_job(task, config, runtime, stage, settings, init_bundle), tracker)
    record = {
        "key": task.key,
        "code": runtime.code_version,
        "release_digest": result.release_digest,
        "seed": str(settings.seed),
        "packages": json.dumps(package_versions()),
    }
    tracker.log_text(result.mlflow_run_id, to_yaml(runtime.settings), "config.yaml")
    tracker.log_text(result.mlflow_run_id, json.dumps(record, indent=1), "provenance.json")
    outputs = {
        "bundle": result.bundle_uri,
        "stats": result.stats_uri,
        "model": model,
        "version": tracker.register(model, result.bundle_uri, result.mlflow_run_id, record),
        "mlflow_run_id": result.mlflow_run_id,
        "last_loss": result.last_loss,
    }
    runtime.commit(task, outputs)


def _job(
    task: Task,
    config: RunConfig,
    runtime: Runtime,
    stage: Literal[1, 2],
    settings: TrainSettings,
    init_bundle: str,
) -> "TrainJob":
    """Say what to train, on which release, and where it goes."""
    from train.run import TrainJob

    (pinned,) = runtime.inputs(task, "release")
    found = index.opened(
        load(runtime.dataset, pinned.outputs["name"]), cache.folder(settings.reader.disk_cache)
    )
    kinds: set[str] = {kind for kind in KINDS if found.shards("train", kind).num_clips}
    return TrainJob(
        run_name=f"stage{stage}-{task.key}",
        stage=stage,
        dataset_root=runtime.dataset,
        release=pinned.outputs["name"],
        settings=fitted(settings, kinds, f"stage{stage}"),
        text=text_settings(config, runtime, task),
        out_uri=storage.join(runtime.keyed_folder(task), "checkpoint"),
        storage_uri=storage.join(runtime.keyed_folder(task), "state"),
        init_bundle=init_bundle,
        provenance={"key": task.key, "config": runtime.settings.model_dump(mode="json")},
    )


def fitted(settings: TrainSettings, kinds: set[str], section: str) -> TrainSettings:
    """Return the settings without batches of images where the release has videos only.

    Images help where there are some; who brings a folder of videos need not know of them.
    """
    if "image" in kinds or not (settings.batch_images and settings.batch_videos):
        return settings
    log.warning("no image to train on: %s.batch_images=%d -> 0", section, settings.batch_images)
    return settings.model_copy(update={"batch_images": 0})


def _whole(runtime: Runtime) -> RunConfig:
    """Return the settings with worker counts and places, which the task's own identity lacks."""
    assert isinstance(runtime.settings, RunConfig)
    return runtime.settings
