"""The sampler: walks a clip from pure noise to a clean one along the diffusion's ODE.

Deterministic Heun steps (or Euler) over EDM's schedule (arXiv 2206.00364, Alg. 1) with the clip
divided by `sigma_in`. The whole state between two steps is `SamplerState`, so a walk can be
stopped, stored and taken up again with the same result. Each clip's first noise comes from its own
seed, so it does not depend on what it is batched with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from train.diffusion.edm import Edm
from train.diffusion.guidance import Known

StepCallback = Callable[[int, int, Tensor], bool]
"""Called after each step with (steps done, steps in all, the clean clip as seen now)."""


@dataclass(frozen=True)
class SamplerState:
    """Where a walk stands.

    Attributes:
        x: The noisy clips in the diffusion's scale, float64 [batch, 3, t, h, w].
        step: Steps done.
        latents: What the denoiser wants back at its next evaluation, or None before the first.
    """

    x: Tensor
    step: int = 0
    latents: Tensor | None = None


class Denoiser(Protocol):
    """Estimates clean clips; see `train.diffusion.guidance.GuidedDenoiser`."""

    def __call__(
        self, x: Tensor, sigma: Tensor, progress: tuple[int, int], latents: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (D of `x` in float64, the latents to hand to the next evaluation)."""
        ...


def noise_levels(edm: Edm, num_steps: int) -> Tensor:
    """Return the `num_steps + 1` falling noise levels of a walk, the last one 0, in float64."""
    if num_steps < 2:
        raise ValueError(f"a walk needs at least 2 steps, got {num_steps}")
    share = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
    high, low = edm.sigma_max ** (1 / edm.rho), edm.sigma_min ** (1 / edm.rho)
    levels = (high + share * (low - high)) ** edm.rho
    return torch.cat([levels, levels.new_zeros(1)])


def unit_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return unit noise [len(seeds), *shape] in float64, each sample from its own seed."""
    return torch.stack(
        [
            torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )


def begin(
    seeds: Sequence[int], shape: Sequence[int], edm: Edm, known: Known | None = None
) -> SamplerState:
    """Return the state before the first step for clips of `shape` (channel, t, h, w).

    Given frames start where the ODE passes through them: x/sigma_in + sigma_max*eps.

    Raises:
        ValueError: The given frames are of another size.
    """
    x = edm.sigma_max * unit_noise(seeds, shape)
    if known is None:
        return SamplerState(x)
    x = x.to(known.clip.device)
    return SamplerState(x + known.put_into(torch.zeros_like(x)) / edm.sigma_in)


def finish(state: SamplerState, edm: Edm, known: Known | None = None) -> Tensor:
    """Return the clips [batch, 3, t, h, w] of a finished walk, in float64, not clamped.

    The walk ends at the given frames but for rounding; with `known` they are returned exactly.
    """
    clips = edm.sigma_in * state.x
    return clips if known is None else known.put_into(clips)


def walk(
    denoise: Denoiser,
    state: SamplerState,
    edm: Edm,
    num_steps: int,
    *,
    solver: Literal["heun", "euler"] = "heun",
    on_step: StepCallback | None = None,
) -> SamplerState:
    """Return the state after the last step, or after the step at which `on_step` said True.

    Args:
        denoise: Estimates the clean clip.
        state: Where to begin: `begin(...)`, or a state returned earlier.
        edm: The diffusion.
        num_steps: Steps of the whole walk, from the first noise level to 0.
        solver: Heun evaluates twice a step (but the last), Euler once.
        on_step: Sees each step and may stop the walk.
    """
    levels = noise_levels(edm, num_steps).to(state.x.device)
    for step in range(state.step, num_steps):
        state, preview = _advance(denoise, state, edm, levels, heun=solver == "heun")
        if on_step is not None and on_step(step + 1, num_steps, preview):
            break
    return state


def _advance(
    denoise: Denoiser, state: SamplerState, edm: Edm, levels: Tensor, *, heun: bool
) -> tuple[SamplerState, Tensor]:
    now, then = levels[state.step], levels[state.step + 1]
    progress = (state.step, len(levels) - 1)
    clean, latents = denoise(state.x, now, progress, state.latents)
    slope = (state.x - clean / edm.sigma_in) / now
    x = state.x + (then - now) * slope
    if heun and then > 0:
        clean, latents = denoise(x, then, progress, latents)
        slope = (slope + (x - clean / edm.sigma_in) / then) / 2
        x = state.x + (then - now) * slope
    return SamplerState(x, state.step + 1, latents), clean
