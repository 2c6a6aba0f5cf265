"""Train the small captioner on a corpus's own human captions, where no model can be had.

Everything follows from the settings and the captioned clips: same input, same weights. The
state is saved every so many steps; a run that is killed and repeated goes on from there and
ends with the same model as an unbroken one.

    train_local("s3://bucket/corpus", Selection(), LocalCaptionerSettings(), "out/captioner")
"""

import contextlib
import hashlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from captioning.chosen import Chosen
from captioning.config import LocalCaptionerSettings
from captioning.examples import Examples, load_examples, varied
from captioning.small import MEAN, START, STD, build_image_processor, build_model, build_tokenizer
from captioning.small import labels as labels_of
from infra import storage
from infra.store.dataset import Dataset

log = logging.getLogger(__name__)

_WARMUP_STEPS = 50
_WEIGHT_DECAY = 0.05
_BETAS = (0.9, 0.95)
_CODE_VERSION = "1"
"""Raised by hand when the same settings come to train another model."""


@dataclass(frozen=True)
class LocalFacts:
    """What was trained."""

    num_clips: int
    num_words: int
    num_parameters: int
    loss: float
    seconds: float


def train_local(
    dataset_root: str, chosen: Chosen, settings: LocalCaptionerSettings, out_uri: str
) -> LocalFacts:
    """Train a captioner and save it as a folder that `from_pretrained` reads.

    Args:
        dataset_root: Of an existing dataset.
        chosen: Learn from those of these clips that have a human caption.
        settings: The model and its training.
        out_uri: Folder to write; the state of unfinished training lies there too.

    Raises:
        DataError: Too few clips have a human caption.
    """
    started_s = time.monotonic()
    images = build_image_processor(settings)
    examples = load_examples(Dataset.open(dataset_root), chosen, settings, images)
    log.info("captioner clips=%d seconds=%.1f", len(examples.texts), time.monotonic() - started_s)
    tokenizer = build_tokenizer(examples.texts)
    model = build_model(len(tokenizer), settings)
    labels = labels_of(tokenizer, examples.texts)
    state = storage.join(out_uri, f"unfinished-{_identity(examples, settings)}.safetensors")
    with _threads(settings.num_threads):
        loss = _train(model, examples.frames, labels, settings, state)
    with tempfile.TemporaryDirectory() as scratch:
        for part in (model, tokenizer, images):
            part.save_pretrained(scratch)
        storage.upload_folder(Path(scratch), out_uri)
    storage.delete(state)
    seconds = time.monotonic() - started_s
    num_parameters = sum(weight.numel() for weight in model.parameters())
    return LocalFacts(len(examples.texts), len(tokenizer), num_parameters, loss, seconds)


def _train(
    model: torch.nn.Module,
    frames: Tensor,
    labels: Tensor,
    settings: LocalCaptionerSettings,
    state: str,
) -> float:
    """Train in place, from the saved state where there is one; return the last loss."""
    optimizer = _optimizer(model, settings)
    done = _load_state(model, optimizer, state)
    started_s, loss = time.monotonic(), torch.tensor(math.nan)
    model.train()
    for step in range(done, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, settings)
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        chosen = torch.randint(len(frames), (settings.batch,), generator=generator)
        view = varied(frames[chosen], settings.num_frames, generator)
        loss = _loss(model, (view - MEAN) / STD, labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % settings.report_every == 0:
            _report(step + 1, done, float(loss.detach()), settings, time.monotonic() - started_s)
        if (step + 1) % settings.save_every == 0:
            _save_state(model, optimizer, step + 1, state)
    model.eval()
    return float(loss.detach())


def _loss(model: torch.nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of each next word given the ones before."""
    start = torch.full((len(labels), 1), START)
    given = torch.cat([start, labels[:, :-1].clamp(min=0)], dim=1)
    logits = model(pixel_values=pixels, decoder_input_ids=given).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def _optimizer(model: torch.nn.Module, settings: LocalCaptionerSettings) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": _WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=_BETAS)


def _learning_rate(step: int, settings: LocalCaptionerSettings) -> float:
    warm = min(1.0, (step + 1) / min(_WARMUP_STEPS, settings.steps))
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _report(
    step: int, first: int, loss: float, settings: LocalCaptionerSettings, spent_s: float
) -> None:
    per_s = (step - first) / spent_s
    log.info(
        "captioner step=%d of=%d loss=%.3f clips_per_s=%.0f left_s=%.0f",
        step, settings.steps, loss, per_s * settings.batch, (settings.steps - step) / per_s,
    )  # fmt: skip


def _save_state(model: torch.nn.Module, optimizer: torch.optim.AdamW, step: int, uri: str) -> None:
    tensors = {"step": torch.tensor(step)}
    for name, weight in model.named_parameters():
        moments = optimizer.state[weight]
        tensors |= {
            f"weight/{name}": weight.detach(),
            f"mean/{name}": moments["exp_avg"],
            f"square/{name}": moments["exp_avg_sq"],
        }
    storage.write_bytes(uri, safetensors.torch.save(tensors))


def _load_state(model: torch.nn.Module, optimizer: torch.optim.AdamW, uri: str) -> int:
    """Put a saved state back and return how many steps it has done; 0 without one."""
    if not storage.exists(uri):
        return 0
    tensors = safetensors.torch.load(storage.read_bytes(uri))
    step = tensors["step"]
    for name, weight in model.named_parameters():
        weight.data.copy_(tensors[f"weight/{name}"])
        optimizer.state[weight] = {
            "step": step.float(),
            "exp_avg": tensors[f"mean/{name}"],
            "exp_avg_sq": tensors[f"square/{name}"],
        }
    log.info("captioner goes on from step=%d", int(step))
    return int(step)


def _identity(examples: Examples, settings: LocalCaptionerSettings) -> str:
    """Name what the weights follow from, so that a saved state of something else is not used."""
    neutral = {"num_threads", "save_every", "report_every"}
    shape = settings.model_dump(mode="json", exclude=neutral)
    words = json.dumps([_CODE_VERSION, shape, examples.clip_ids, examples.texts], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
