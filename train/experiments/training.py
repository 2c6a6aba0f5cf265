"""Training of one variant from one seed: one process, one thread, no Ray and no DeepSpeed.

The optimizer is AdamW, which here learns about as much a step as LAMB does and costs 1 ms where
LAMB's many small operations cost 14 (train/LOG.md). What is drawn for a clip follows from the seed
and its place in the order alone, so that all variants see the same clips with the same unit noise
in the same order.
"""

import logging
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train import ema
from train.diffusion.edm import Draws, draw, training_loss
from train.experiments import world
from train.experiments.claims import Variant
from train.model.fit import Conditioning, Fit
from train.order import sample_seed

log = logging.getLogger(__name__)

NUM_VIDEOS, NUM_STILLS = 1500, 500
REPORT_EVERY = 100
CLIP_NORM, WEIGHT_DECAY = 1.0, 0.01
EMA_HALF_LIFE_STEPS = 6000.0
"""Never reached in so short a run: the half-life is a twentieth of the steps made."""


@dataclass(frozen=True)
class Budget:
    """How much every run may spend; the same for all variants.

    Attributes:
        steps: Updates of the weights.
        videos: Clips of motion per step.
        stills: Stills per step.
        lr: Highest learning rate, after `warmup` steps; it falls to 0 along a cosine.
        warmup: Steps of the linear rise.
        samples: Videos to sample and measure, and half as many stills.
        sampling_steps: Heun steps of a sampled clip.
        guidance: Enlargement of the text's influence in sampling; 1 is off.
    """

    steps: int = 2000
    videos: int = 10
    stills: int = 6
    lr: float = 3e-3
    warmup: int = 40
    samples: int = 192
    sampling_steps: int = 18
    guidance: float = 1.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        return self.lr * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train(variant: Variant, seed: int, budget: Budget) -> tuple[Fit, list[float]]:
    """Return the network with its averaged weights, and the mean loss of each stretch of steps."""
    torch.manual_seed(seed)
    model = Fit(variant.fit).train()
    weights: list[Tensor] = list(model.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True)
    feed = Feed(variant, seed, budget)
    losses: list[float] = []
    means: list[float] = []
    begun = time.perf_counter()
    for step in range(budget.steps):
        clips, cond, draws = feed.batch(step)
        loss = training_loss(model, clips, cond, variant.edm, draws).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch types it nowhere
        nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.param_groups[0]["lr"] = budget.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            ema.update(averages, weights, ema.decay(step + 1, EMA_HALF_LIFE_STEPS))
        losses.append(float(loss.detach()))
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == budget.steps:
            means.append(sum(losses) / len(losses))
            losses = []
            left_s = (time.perf_counter() - begun) / (step + 1) * (budget.steps - step - 1)
            log.info(
                "%s seed=%d step=%d of=%d loss=%.4f left_s=%.0f",
                *(variant.name, seed, step + 1, budget.steps, means[-1], left_s),
            )
    with torch.no_grad():
        torch._foreach_copy_(weights, averages)
    return model.eval(), means


class Feed:
    """The batches of one run."""

    def __init__(self, variant: Variant, seed: int, budget: Budget) -> None:
        self.variant, self.seed, self.budget = variant, seed, budget
        self.videos = world.library(NUM_VIDEOS, seed=1, still=False)
        self.stills = world.library(NUM_STILLS, seed=2, still=True)
        shuffle = torch.Generator().manual_seed(seed)
        self.order = [
            torch.randint(len(there.shown), (budget.steps, count), generator=shuffle)
            for there, count in ((self.videos, budget.videos), (self.stills, budget.stills))
        ]

    def batch(self, step: int) -> tuple[Tensor, Conditioning, Draws]:
        """Return the clips of a step, what is told about them, and their randomness."""
        chosen = [rows[step].tolist() for rows in self.order]
        clips = torch.cat([self.videos.clips[chosen[0]], self.stills.clips[chosen[1]]])
        shown = [self.videos.shown[i] for i in chosen[0]] + [
            self.stills.shown[i] for i in chosen[1]
        ]
        count = len(shown)
        draws = draw(
            [sample_seed(self.seed, "noise", step * count + i) for i in range(count)],
            self.variant.fit.clip_shape,
            self.variant.edm,
            self_conditioning=self.variant.self_conditioning,
            still=[one.direction is None for one in shown] if self.variant.single else None,
        )
        return clips, world.prompts(tuple(shown)), draws
