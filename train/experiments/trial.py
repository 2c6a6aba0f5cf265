"""One run: train a variant from one seed, sample from its averaged weights, measure the samples."""

import functools
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.diffusion.guidance import Guidance, GuidedDenoiser
from train.diffusion.sampler import SamplerState, begin, finish, walk
from train.experiments import measures, world
from train.experiments.claims import Variant
from train.experiments.measures import Eye, Floats
from train.experiments.training import Budget, train
from train.experiments.world import Library
from train.model.fit import Conditioning, Fit

DATA_NOISE = (0.3, 1.0, 3.0, 10.0)
"""Noise levels of the denoising error, as seen on a clip in [-1, 1]: sigma times sigma_in."""

_BATCH = 64
_FITTED, _REAL = 400, 1200
_SHOWN = 6


@dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
        measures: By name; see `report.COLUMNS`.
        parameters: Weights of the network.
        train_s: CPU seconds of training.
        sample_s: CPU seconds of sampling.
        losses: Mean loss of each stretch of steps.
    """

    measures: dict[str, float]
    parameters: int
    train_s: float
    sample_s: float
    losses: list[float]


@dataclass(frozen=True)
class Real:
    """Held-out clips to compare with, and the features to compare by."""

    eye: Eye
    videos: Floats
    stills: Floats


@functools.cache
def real() -> Real:
    """Return real clips of other seeds than any network is trained on."""
    fitted = [_array(world.library(_FITTED, seed, still=seed == 4)) for seed in (3, 4)]
    compared = [_array(world.library(_REAL, seed, still=seed == 6)) for seed in (5, 6)]
    return Real(Eye.fit(*fitted), *compared)


def run(variant: Variant, seed: int, budget: Budget) -> tuple[Outcome, Floats]:
    """Return what a variant gives from one seed, and a few of its samples [n, 3, t, h, w]."""
    torch.set_num_threads(1)
    begun = time.process_time()
    model, losses = train(variant, seed, budget)
    trained = time.process_time()
    asked = prompts(budget, seed)
    videos, stills = (sample(model, variant, one, budget, seed) for one in asked)
    sampled = time.process_time()
    error = denoising_error(model, variant, asked[0])
    outcome = Outcome(
        measures=measured(videos, stills, asked[0]) | {"error": error},
        parameters=sum(p.numel() for p in model.parameters()),
        train_s=trained - begun,
        sample_s=sampled - trained,
        losses=losses,
    )
    return outcome, videos[:_SHOWN]


def floor(budget: Budget, seed: int) -> dict[str, float]:
    """Return the measures of as many real clips, which no samples should beat."""
    videos, stills = prompts(budget, seed)
    return measured(_array(videos), _array(stills), videos)


def prompts(budget: Budget, seed: int) -> tuple[Library, Library]:
    """Return the (videos, stills) whose texts are sampled: a seed's own, never trained on."""
    return (
        world.library(budget.samples, 1000 + seed, still=False),
        world.library(budget.samples // 2, 2000 + seed, still=True),
    )


def sample(model: Fit, variant: Variant, asked: Library, budget: Budget, seed: int) -> Floats:
    """Return a sampled clip for each of the texts [n, 3, t, h, w]."""
    frozen = variant.single and asked.shown[0].direction is None
    network = _Sampled(model, frozen=frozen, carries=variant.self_conditioning > 0)
    clips = []
    for first in range(0, len(asked.shown), _BATCH):
        shown = asked.shown[first : first + _BATCH]
        seeds = [(seed << 32) + first + i for i in range(len(shown))]
        state = begin(seeds, variant.fit.clip_shape, variant.edm)
        if frozen:
            state = SamplerState(state.x[:, :, :1].expand_as(state.x).contiguous())
        guided = GuidedDenoiser(
            network, variant.edm, world.prompts(shown), Guidance(scale=budget.guidance)
        )
        clips.append(finish(walk(guided, state, variant.edm, budget.sampling_steps), variant.edm))
    return torch.cat(clips).clamp(-1, 1).numpy()


@torch.no_grad()
def denoising_error(model: Fit, variant: Variant, held_out: Library) -> float:
    """Return how far denoised clips are from the real ones: RMS, mean over `DATA_NOISE`.

    All variants get the same noise on the same clips; one that carries latents gets those of a
    first look at the same noisy clip, as in training.
    """
    edm, x, cond = variant.edm, held_out.clips, world.prompts(held_out.shown)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for level in DATA_NOISE:
        sigma = torch.full((len(x),), level / edm.sigma_in)
        x_s = edm.noised(x, noise, sigma)
        x_in, c_noise = x_s * edm.c_in(sigma[0]), edm.c_noise(sigma)
        latents = model(x_in, c_noise, cond)[1] if variant.self_conditioning else None
        f, _ = model(x_in, c_noise, cond, latents)
        errors.append(float((edm.denoised(x_s, f, sigma) - x).square().mean().sqrt()))
    return sum(errors) / len(errors)


def measured(videos: Floats, stills: Floats, asked: Library) -> dict[str, float]:
    """Return every measure of sampled videos and stills [n, 3, t, h, w]; see `report.COLUMNS`."""
    there = real()
    return {
        "fid": there.eye.fid(measures.middle(there.videos), measures.middle(videos)),
        "fvd": there.eye.fvd(there.videos, videos),
        "still_fid": there.eye.fid(measures.middle(there.stills), measures.middle(stills)),
        "flicker": measures.flicker(videos),
        **measures.judged(videos, asked.shown),
    }


class _Sampled:
    """The network as a variant is sampled from: without carried latents, or as one image."""

    def __init__(self, model: Fit, *, frozen: bool, carries: bool) -> None:
        self.model, self.frozen, self.carries = model, frozen, carries

    def __call__(
        self,
        x: Tensor,
        c_noise: Tensor,
        cond: Conditioning,
        prev_latents: Tensor | None = None,
        prev_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (F, latents to hand over); the answers for a single image are averaged."""
        f, latents = self.model(x, c_noise, cond, prev_latents, prev_mask)
        if self.frozen:
            f = f.mean(2, keepdim=True).expand_as(f)
        return f, latents if self.carries else None


def _array(library: Library) -> Floats:
    return np.asarray(library.clips.double().numpy())
