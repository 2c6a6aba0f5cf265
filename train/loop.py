"""What one training worker does, top to bottom; Ray Train starts it once per rank.

Every rank computes its own slice of each global batch, steps its DeepSpeed engine and, now and
then, writes its fragments of a checkpoint. Rank 0 keeps `stats.jsonl`. A restarted group begins at
the last committed checkpoint, and what it then computes is what an undisturbed run would have.
A loss that is not finite ends the loop on all ranks before it reaches the weights
(`train/guard.py`).
"""

import contextlib
import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist

from infra import logs, storage
from train import bundle, checkpoint, engine, guard
from train.blueprint import Blueprint
from train.config import OptimizerSettings, TrainSettings
from train.data import Reader, Source, batches
from train.decode import Geometry
from train.diffusion.edm import training_loss
from train.lamb import Lamb, LambSettings
from train.model.presets import PRESETS
from train.order import sample_seed


@dataclass(frozen=True)
class Work:
    """What a worker is told: places and settings, all absolute and picklable."""

    source: Source
    settings: TrainSettings
    stats_uri: str
    stop_uri: str
    """Where a loss that is not finite is reported; a worker that finds it has nothing to do."""
    init_bundle: str = ""
    """Checkpoint of stage 1 where this is stage 2."""
    resume_uri: str = ""
    """Checkpoint to resume from where Ray Train knows of none."""


def train_worker(config: dict[str, Work]) -> None:
    """Train one rank's share from the last checkpoint, or the start, to the last step."""
    work = config["work"]
    settings = work.settings
    _quiet()
    if storage.exists(work.stop_uri):
        return
    torch.set_num_threads(settings.threads)
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    reader, plan, net, lamb, state = _begun(work)
    first = saved = int(state.get("step", 0))
    reader.resume(first, state.get("cursors", {}))
    stats = Stats(work, first_step=first, seconds=float(state.get("seconds", 0.0)))
    facts = {"release_digest": reader.digest, **plan.to_config(reader.source_size)}

    steps = range(first, settings.steps)
    incoming = batches(reader, steps, rank, num_ranks, settings.reader.processes)
    for step in steps:
        with stats.timed("wait"):
            batch = next(incoming)
        with stats.timed("forward_backward"):
            torch.manual_seed(sample_seed(settings.seed, f"dropout/{rank}", step))
            draws = plan.draws(batch.seeds, batch.is_image).to(net.device)
            clips, cond = batch.clips.to(net.device), batch.cond.to(net.device)
            losses = training_loss(net, clips, cond, plan.edm, draws)
            loss = losses.mean()
            net.backward(loss)
        if not guard.all_true(losses.detach().isfinite()):
            if guard.stop(work.stop_uri, step, saved, lamb, batch, losses, draws):
                save(lamb, facts | _progress(reader, stats, step))
            return
        with stats.timed("step"):
            lr = learning_rate(step, settings.steps, settings.optimizer)
            lamb.set_lr(lr)
            net.step()
        stats.add(loss, net.get_global_grad_norm(), batch.bad)
        if due(step, settings.report_every, settings.steps):
            stats.report(step + 1, lr, lamb)
        if due(step, settings.save_every, settings.steps):
            save(lamb, facts | _progress(reader, stats, step + 1))
            saved = step + 1


def _begun(work: Work) -> tuple[Reader, Blueprint, Any, Lamb, dict[str, Any]]:
    """Return the reader, the blueprint, the engine, its optimizer, and the state it resumes from.

    The engine is DeepSpeed's, which ships no types; the state is empty at the start of a run.
    """
    settings = work.settings
    shape = PRESETS[settings.preset]
    reader = Reader(work.source, settings, Geometry(shape.frames, shape.height, shape.width))
    below = bundle.read_config(work.init_bundle) if work.init_bundle else None
    plan = Blueprint.build(settings, reader.text_width, below)
    with _resumed(work) as folder:
        model = plan.network(settings.seed, "" if folder else work.init_bundle)
        if folder:
            model.load_state_dict(checkpoint.weights(folder, "weight"), strict=False)
        net, lamb = _start(model, settings, dist.get_world_size())
        state = checkpoint.restore(folder, lamb) if folder else {}
    return reader, plan, net, lamb, state


def _progress(reader: Reader, stats: "Stats", step: int) -> dict[str, Any]:
    """Return what a run continues from once `step` steps are made."""
    return {"step": step, "seconds": stats.seconds, "cursors": reader.cursors(step)}


def due(step: int, every: int, steps: int) -> bool:
    """Return whether something periodic happens after this step; it always does after the last."""
    return (step + 1) % every == 0 or step + 1 == steps


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine down to the floor."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return settings.lr * warm * (settings.lr_floor + (1 - settings.lr_floor) * cosine)


def save(lamb: Lamb, state: dict[str, Any]) -> None:
    """Hand this rank's fragments to Ray Train, which commits them once all ranks have."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint.write(Path(scratch), lamb, state)
        ray.train.report(
            {"step": state["step"]}, checkpoint=ray.train.Checkpoint.from_directory(scratch)
        )


@dataclass
class Stats:
    """Numbers of the run so far; rank 0 appends a line to stats.jsonl at each report."""

    work: Work
    first_step: int
    seconds: float
    """Seconds of training, earlier attempts included."""
    spent: dict[str, float] = field(default_factory=dict)
    _rows: list[dict[str, float]] = field(default_factory=list)
    _bad: set[str] = field(default_factory=set)
    _losses: list[torch.Tensor] = field(default_factory=list)
    _norms: list[float] = field(default_factory=list)
    _since: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        if dist.get_rank() == 0 and self.first_step and storage.exists(self.work.stats_uri):
            lines = storage.read_text(self.work.stats_uri).splitlines()
            self._rows = [r for r in map(json.loads, lines) if r["step"] <= self.first_step]

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the seconds inside the block towards a part of the step."""
        begun = time.perf_counter()
        yield
        self.spent[part] = self.spent.get(part, 0.0) + time.perf_counter() - begun

    def add(self, loss: torch.Tensor, grad_norm: object, bad: Sequence[str]) -> None:
        """Take in one step: loss, gradient norm before clipping, clips that were replaced."""
        self._bad.update(bad)
        self._losses.append(loss.detach())
        self._norms.append(float(grad_norm) if isinstance(grad_norm, float | torch.Tensor) else 0.0)

    def report(self, step: int, lr: float, lamb: Lamb) -> None:
        """Average over the steps since the last report, over all ranks, and write the line."""
        settings, count = self.work.settings, len(self._losses)
        mean_loss = torch.stack(self._losses).float().mean()
        dist.all_reduce(mean_loss)
        elapsed = time.perf_counter() - self._since
        self.seconds += elapsed
        clips = settings.batch_videos + settings.batch_images
        clip_norm = settings.optimizer.clip_norm
        clipped = sum(norm > clip_norm for norm in self._norms) if clip_norm else 0
        row = {
            "step": step,
            "steps": settings.steps,
            "clips": step * clips,
            "loss": float(mean_loss) / dist.get_world_size(),
            "lr": lr,
            "grad_norm": sum(self._norms) / count,
            "clip_rate": clipped / count,
            "clips_per_s": count * clips / elapsed,
            "seconds": round(self.seconds, 2),
            "left_s": round((settings.steps - step) * elapsed / count, 1),
            "bad_clips": len(self._bad),
            "skipped_steps": lamb.skipped_steps,
        } | {f"{part}_ms": round(1000 * s / count, 2) for part, s in self.spent.items()}
        if dist.get_rank() == 0:
            self._rows.append(row)
            text = "".join(json.dumps(r) + "\n" for r in self._rows)
            storage.write_bytes(self.work.stats_uri, text.encode())
        self._losses, self._norms, self.spent = [], [], {}
        self._since = time.perf_counter()


def _quiet() -> None:
    """Log our own lines; Ray repeats each checkpoint twice, DeepSpeed calls what torch renames."""
    logs.setup()
    logging.getLogger("ray").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")


def _start(model: torch.nn.Module, settings: TrainSettings, num_ranks: int) -> tuple[Any, Lamb]:
    return engine.start(
        model,
        optimizer_settings(settings.optimizer),
        zero_stage=settings.zero_stage,
        precision=settings.precision,
        batch_per_worker=(settings.batch_videos + settings.batch_images) // num_ranks,
        clip_norm=settings.optimizer.clip_norm,
        compiled=settings.compile,
    )


def optimizer_settings(knobs: OptimizerSettings) -> LambSettings:
    """Return how the weights are moved; Adam is LAMB whose trust ratio is 1 everywhere."""
    same = LambSettings(
        betas=(knobs.beta_1, knobs.beta_2),
        weight_decay=knobs.weight_decay,
        ema_half_life_steps=knobs.ema_half_life_steps,
        ema_ramp=knobs.ema_ramp,
    )
    if knobs.name == "adam":
        return replace(same, eps=1e-8, ratio_min=1.0, ratio_max=1.0, exempt_lr_scale=1.0)
    return replace(
        same,
        ratio_min=knobs.ratio_min,
        ratio_max=knobs.ratio_max or math.inf,
        weight_norm_clamp=knobs.weight_norm_clamp or math.inf,
        exempt_lr_scale=knobs.exempt_lr_scale,
    )


@contextlib.contextmanager
def _resumed(work: Work) -> Iterator[Path | None]:
    """Give a local folder with the checkpoint to resume from, checked, or None."""
    found = ray.train.get_checkpoint()
    with contextlib.ExitStack() as stack:
        folder: Path | None = None
        if found is not None:
            folder = Path(stack.enter_context(found.as_directory()))
        elif work.resume_uri:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            folder = storage.local_copy(work.resume_uri, Path(scratch))
        if folder is not None:
            state = checkpoint.read_state(folder)
            logging.getLogger(__name__).info("resuming at step=%d", state["step"])
        yield folder
