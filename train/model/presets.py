"""Named shapes: the paper's three FITs and two U-Nets, and small ones for tests and one GPU.

Stage 2 of a cascade is the preset with `-up` behind the name of stage 1; it reads the lower
stage's clip as three more channels and has the same blocks. U-Nets are first stages only.
"""

import math
from dataclasses import replace

from train.model.fit import FitConfig
from train.model.unet import UNetConfig

_FIT_500M = FitConfig(
    frames=16, height=36, width=64, inside_height=40, group=(16, 5, 4),
    patch_width=768, latent_width=1024, context_width=768, latents=512,
    blocks=6, layers=4, patch_head=48, latent_head=64, text_width=1024,
)  # fmt: skip
_FIT_4B = replace(
    _FIT_500M, patch_width=1024, latent_width=3072, context_width=1024, latents=768,
    patch_head=64, latent_head=128,
)  # fmt: skip
_MICRO = FitConfig(
    frames=4, height=12, width=16, inside_height=16, group=(4, 2, 2),
    patch_width=64, latent_width=64, context_width=32, latents=16,
    blocks=2, layers=1, patch_head=16, latent_head=16, text_width=16,
)  # fmt: skip
_TINY = FitConfig(
    frames=8, height=12, width=16, inside_height=16, group=(8, 2, 2),
    patch_width=96, latent_width=128, context_width=64, latents=32,
    blocks=3, layers=2, patch_head=24, latent_head=32, text_width=32,
)  # fmt: skip
_DEMO = FitConfig(
    frames=8, height=28, width=32, inside_height=32, group=(8, 4, 4),
    patch_width=128, latent_width=192, context_width=96, latents=64,
    blocks=3, layers=2, patch_head=32, latent_head=48, text_width=32,
)  # fmt: skip
_UNET_284M = UNetConfig(
    frames=16, height=36, width=64, inside_height=40, base=192, multiples=(1, 2, 3, 4),
    text_width=1024,
)  # fmt: skip
_UNET_MICRO = UNetConfig(
    frames=4, height=12, width=16, inside_height=16, base=32, multiples=(1, 2, 2),
    text_width=16, res_blocks=1, attention=(2, 4), embedding_width=64, context_width=64,
)  # fmt: skip


def _loud(base: FitConfig) -> FitConfig:
    """Return a shape whose first weights let the text be heard within minutes (train/LOG.md)."""
    return replace(base, init_gain=math.sqrt(3), position_std=0.5, latent_std=0.2)


def _up(base: FitConfig, scale: int, group: tuple[int, int, int]) -> FitConfig:
    height, width = base.height * scale, base.width * scale
    return replace(
        base, height=height, width=width, inside_height=height, group=group, low_res=True
    )


FITS: dict[str, FitConfig] = {
    "fit-500m": _FIT_500M,
    "fit-3.9b": _FIT_4B,
    "fit-3.9b-up": _up(_FIT_4B, 8, (16, 18, 16)),
    "micro": _loud(_MICRO),
    "micro-up": _up(_loud(_MICRO), 2, (4, 3, 2)),
    "tiny": _loud(_TINY),
    "tiny-up": _up(_loud(_TINY), 2, (8, 3, 2)),
    "demo": _loud(_DEMO),
    "demo-up": _up(_loud(_DEMO), 2, (8, 7, 4)),
    "small": replace(
        _FIT_500M, patch_width=192, latent_width=384, context_width=192, latents=128,
        blocks=4, layers=4, patch_head=48, latent_head=64, text_width=64,
    ),
}  # fmt: skip
"""Every named shape of FIT."""

UNETS: dict[str, UNetConfig] = {
    "unet-284m": _UNET_284M,
    "unet-85m": replace(_UNET_284M, base=128, multiples=(1, 2, 2, 3)),
    "unet-micro": _UNET_MICRO,
}
"""Every named shape of the U-Net baselines."""

PRESETS: dict[str, FitConfig | UNetConfig] = FITS | UNETS
"""Every named shape; `dataclasses.replace` bends one, e.g. its text width to the encoder's."""
