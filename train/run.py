"""Train one stage under Ray Train and leave a checkpoint that users can load.

`train_stage` may be killed at any point and called again: Ray Train keeps committed checkpoints
below `storage_uri`, the same run name continues from the last one, and a finished stage is only
exported again. MLflow is fed from `stats.jsonl` by the driver, so workers never wait for it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch

from infra import config as settings_files
from infra import storage
from infra.errors import ConfigError, DataError, ServiceError, SnapvideoError
from infra.provenance import code_version, package_versions
from infra.tracking import Tracker
from train import attempts, bundle, checkpoint, guard
from train.blueprint import Blueprint
from train.config import TrainSettings
from train.data import Reader, Source
from train.decode import Geometry
from train.loop import Work, train_worker
from train.model.presets import PRESETS
from train.progress import Follower
from train.text_config import TextSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainJob:
    """One stage to train."""

    run_name: str
    """Identity of the work: the same name continues the same run."""
    stage: Literal[1, 2]
    dataset_root: str
    release: str
    settings: TrainSettings
    text: TextSettings
    """The encoder that embedded the release's captions."""
    out_uri: str
    """Where the finished checkpoint goes."""
    storage_uri: str
    """Where resumable state lies between attempts."""
    init_bundle: str = ""
    """Stage 1's checkpoint folder where this is stage 2."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Further facts to record, such as the whole resolved config."""


@dataclass(frozen=True)
class TrainResult:
    """A finished stage."""

    bundle_uri: str
    stats_uri: str
    mlflow_run_id: str
    release_digest: str
    steps: int
    last_loss: float
    seconds: float


def train_stage(job: TrainJob, tracker: Tracker) -> TrainResult:
    """Train to the last step, write the checkpoint folder and return where it is.

    Ray must be running.

    Raises:
        ConfigError: The settings do not fit the release, the encoder or stage 1.
        DataError: The release or a checkpoint is not as it must be, or a loss was not finite.
        ServiceError: The workers failed more often than `max_failures` allows.
    """
    from train.text import encoder_id

    encoder = encoder_id(job.text)
    source = Source(storage.absolute(job.dataset_root), job.release, encoder)
    _check(job, source)
    work = _work(job, source)
    run_id = tracker.start_run(
        job.run_name, job.run_name, _flat(job.settings.model_dump()), _tags(job)
    )
    tracker.log_text(run_id, settings_files.to_yaml(job.settings), "settings.yaml")
    with Follower(work.stats_uri, tracker, run_id, job.run_name) as follower:
        try:
            found = _trained(job, work)
        except SnapvideoError:
            tracker.finish(run_id, ok=False)
            raise
    digest = _export(job, found, encoder, work.stats_uri)
    tracker.finish(run_id, ok=True)
    last = follower.last
    return TrainResult(
        bundle_uri=storage.absolute(job.out_uri),
        stats_uri=storage.join(storage.absolute(job.out_uri), "stats.jsonl"),
        mlflow_run_id=run_id,
        release_digest=digest,
        steps=job.settings.steps,
        last_loss=float(last.get("loss", float("nan"))),
        seconds=float(last.get("seconds", 0.0)),
    )


def _check(job: TrainJob, source: Source) -> None:
    """Find out here, and not in the workers, what cannot work."""
    if (job.stage == 2) != bool(job.init_bundle):
        raise ConfigError("stage 2, and only stage 2, starts from a checkpoint: init_bundle")
    if job.settings.gpus:
        have = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
        if have < job.settings.num_workers:
            raise ConfigError(
                f"stage{job.stage}.gpus: {job.settings.num_workers} workers ask for a GPU each, "
                f"the cluster has {have}; set it to false, lower stage{job.stage}.num_workers, or "
                "add GPUs and say so in cluster.num_gpus"
            )
    shape = PRESETS[job.settings.preset]
    reader = Reader(source, job.settings, Geometry(shape.frames, shape.height, shape.width))
    below = bundle.read_config(job.init_bundle) if job.init_bundle else None
    plan = Blueprint.build(job.settings, reader.text_width, below)
    run_uri = storage.join(storage.absolute(job.storage_uri), job.run_name)
    attempts.check_network(run_uri, plan.model, f"stage{job.stage}")


def _work(job: TrainJob, source: Source) -> Work:
    """Say what workers do, after setting aside what a kill has left half-written."""
    state_uri = storage.absolute(job.storage_uri)
    return Work(
        source=source,
        settings=job.settings,
        stats_uri=storage.join(state_uri, "stats.jsonl"),
        stop_uri=guard.report_uri(state_uri),
        init_bundle=storage.absolute(job.init_bundle) if job.init_bundle else "",
        resume_uri=attempts.mended(storage.join(state_uri, job.run_name)),
    )


def _trained(job: TrainJob, work: Work) -> ray.train.Checkpoint:
    """Return the checkpoint of the last step: an earlier attempt's, or that of training now."""
    state_uri = storage.absolute(job.storage_uri)
    found = attempts.finished(storage.join(state_uri, job.run_name), job.settings.steps)
    if found is not None:
        return found
    try:
        result = _trainer(job, work, state_uri).fit()
    except ray.train.TrainingFailedError as fault:
        guard.raise_if_stopped(work.stop_uri, job.run_name)
        raise _named(fault, job) from fault
    guard.raise_if_stopped(work.stop_uri, job.run_name)
    last: ray.train.Checkpoint | None = result.checkpoint
    assert last is not None, "the last step always saves"
    return last


def _trainer(job: TrainJob, work: Work, state_uri: str) -> ray.train.torch.TorchTrainer:
    settings = job.settings
    files, path = storage.filesystem(state_uri)
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"work": work},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if settings.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.num_workers,
            use_gpu=settings.gpus,
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if settings.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=job.run_name,
            storage_path=path,
            storage_filesystem=files,
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=settings.keep),
        ),
    )


def _export(job: TrainJob, found: ray.train.Checkpoint, encoder: str, stats_uri: str) -> str:
    """Write the user's checkpoint from the fragments; return the release's digest."""
    with found.as_directory() as name:
        folder = Path(name)
        state = checkpoint.read_state(folder)
        config = {
            "stage": job.stage,
            **{k: state[k] for k in ("model", "edm", "native", "low_res", "low_noise")},
            "text_encoder": {
                "model": job.text.model,
                "revision": job.text.revision,
                "max_tokens": job.text.max_tokens,
                "dtype": job.text.dtype,
                "encoder_id": encoder,
            },
            "framerates": sorted(job.settings.reader.framerates),
            "provenance": {
                "settings": job.settings.model_dump(mode="json"),
                "code_version": code_version(),
                "packages": package_versions(),
                "release": job.release,
                "release_digest": state["release_digest"],
                "seed": job.settings.seed,
                "steps": state["step"],
                "init_bundle": job.init_bundle,
                **job.provenance,
            },
        }
        out = storage.absolute(job.out_uri)
        storage.write_bytes(storage.join(out, "stats.jsonl"), storage.read_bytes(stats_uri))
        averaged, raw = (checkpoint.weights(folder, kind) for kind in ("ema", "weight"))
        bundle.save(out, config, averaged, raw)
    log.info("wrote checkpoint uri=%s step=%d", out, state["step"])
    return str(state["release_digest"])


def _named(fault: BaseException, job: TrainJob) -> SnapvideoError:
    """Return the worker's own fault where it is the user's, else one that says why."""
    text = str(fault)
    for line in reversed(text.splitlines()):
        for kind in (ConfigError, DataError, ServiceError):
            _, found, message = line.partition(f"infra.errors.{kind.__name__}: ")
            if found:
                return kind(f"{job.run_name}: {message}")
    last = text.strip().splitlines()[-1][:500] if text.strip() else type(fault).__name__
    return ServiceError(
        f"{job.run_name}: training failed more than {job.settings.max_failures} times "
        f"(max_failures), at last with: {last}; run the same command to resume"
    )


def _tags(job: TrainJob) -> dict[str, str]:
    return {
        "snapvideo.stage": str(job.stage),
        "snapvideo.release": job.release,
        "snapvideo.code": code_version(),
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
