"""Exponential moving average of the weights, kept sharded beside the optimizer's moments.

The average lives in the optimizer as one flat fp32 tensor a partition and is updated in the same
pass as the weights, so skipped steps do not count, nothing is gathered, and it costs 4 bytes a
parameter divided by the ranks. It must be fp32: at a decay of 0.99988 a bf16 average hardly moves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def decay(step: int, half_life_steps: float, ramp: float = 0.05) -> float:
    """Return the share of the old average that update number `step` (from 1) keeps.

    The half-life grows with the run until it reaches its final value, so that an early average
    is not made of the first random weights (Karras et al., EDM, `ema_rampup_ratio`).

    Args:
        step: Updates made, this one included.
        half_life_steps: Final half-life in steps.
        ramp: Half-life early in the run, as a share of the steps made.
    """
    half_life = min(half_life_steps, ramp * step)
    return float(0.5 ** (1.0 / half_life)) if half_life > 0 else 0.0


def update(averages: Sequence[Tensor], weights: Sequence[Tensor], keep: float) -> None:
    """Move each average towards its weights, in place; both fp32 and of one layout."""
    torch._foreach_lerp_(list(averages), list(weights), 1.0 - keep)
