"""A small network and its prompts, for tests of what walks with them."""

import torch

from train.model.fit import Conditioning, Fit
from train.model.presets import PRESETS


def carrying_fit() -> Fit:
    """Return an untrained micro network whose latents matter to the next evaluation."""
    torch.manual_seed(0)
    model = Fit(PRESETS["micro"])
    with torch.no_grad():
        model.carry_norm.gain.fill_(0.5)  # otherwise latents are handed over without effect
    return model.eval().requires_grad_(requires_grad=False)


def prompts(batch: int) -> Conditioning:
    """Return the same text for every clip."""
    text = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(2))
    return Conditioning(
        text=text.repeat(batch, 1, 1),
        text_mask=torch.ones(batch, 4, dtype=torch.bool),
        drop=torch.zeros(batch, dtype=torch.bool),
        framerate=torch.ones(batch),
        resolution=torch.zeros(batch, 2),
        resolution_known=torch.ones(batch, dtype=torch.bool),
    )
