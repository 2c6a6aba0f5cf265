"""What is tried: the paper's claims, and the network and diffusion of each side.

Every variant is the baseline with one thing changed, as in the paper's ablations; the seed decides
the first weights, the order of the clips and all noise, so both sides of a claim see the same.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from train.diffusion.edm import Edm
from train.experiments.world import FRAMES, HEIGHT, TEXT_WIDTH, WIDTH
from train.model.fit import FitConfig

BASELINE = FitConfig(
    frames=FRAMES, height=HEIGHT, width=WIDTH, group=(FRAMES, 2, 2),
    patch_width=64, latent_width=64, context_width=32, latents=16,
    blocks=2, layers=1, patch_head=16, latent_head=16, text_width=TEXT_WIDTH, dropout=0.0,
    init_gain=math.sqrt(3), position_std=0.5, latent_std=0.2,
)  # fmt: skip
"""The preset `micro` over one group of patches; so short a training has no use for dropout."""

DIFFUSION = Edm(sigma_in=math.sqrt(FRAMES))
"""The paper's, with its distribution of training noise."""


@dataclass(frozen=True)
class Variant:
    """One way to train and sample; the defaults are the baseline.

    Attributes:
        name: What results are filed under.
        summary: What differs from the baseline, for tables.
        fit: The network.
        edm: The diffusion, of training and of sampling.
        images: Whether stills are videos of infinite framerate, or single images.
        self_conditioning: Share of samples that get latents of a first pass in training; with 0
            there is no first pass, and sampling does not carry latents either.
    """

    name: str
    summary: str
    fit: FitConfig = BASELINE
    edm: Edm = DIFFUSION
    images: Literal["video", "still"] = "video"
    self_conditioning: float = 0.9

    @property
    def single(self) -> bool:
        """Whether a still is one image, whose frames share their noise."""
        return self.images == "still"


@dataclass(frozen=True)
class Claim:
    """What the paper says of two variants, and the measures by which it says so.

    Attributes:
        name: Given on the command line.
        says: The claim in one sentence.
        better: Name of the variant that the paper prefers.
        worse: Name of the other one.
        measures: Which measures decide; less is better in each.
    """

    name: str
    says: str
    better: str
    worse: str
    measures: tuple[str, ...] = ("fid", "fvd")


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("baseline", "sigma_in = sqrt(T), sigma_data = 1, 16 latents, 1x4x4 patches"),
        Variant("sigma-in-1", "sigma_in = 1", edm=replace(DIFFUSION, sigma_in=1.0)),
        Variant("sigma-data-half", "sigma_data = 0.5", edm=replace(DIFFUSION, sigma_data=0.5)),
        Variant("single-images", "stills are single images", images="still"),
        Variant("latents-4", "4 latents", fit=replace(BASELINE, latents=4)),
        Variant(
            "temporal-patches",
            "2x4x4 patches",
            fit=replace(BASELINE, patch_frames=2, group=(FRAMES // 2, 2, 2)),
        ),
        Variant(
            "temporal-patches-wide",
            "2x4x4 patches of 128 channels",
            fit=replace(BASELINE, patch_frames=2, group=(FRAMES // 2, 2, 2), patch_width=128),
        ),
        Variant(
            "no-feed-forward",
            "no feed-forward after read and write",
            fit=replace(BASELINE, read_write_ff=False),
        ),
        Variant("no-self-conditioning", "no self-conditioning", self_conditioning=0.0),
    )
}

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim("sigma-in", "sigma_in = sqrt(T) beats sigma_in = 1", "baseline", "sigma-in-1"),
        Claim("sigma-data", "sigma_data = 1 beats 0.5", "baseline", "sigma-data-half"),
        Claim(
            "images",
            "stills as videos of infinite framerate give better frames than as single images",
            "baseline",
            "single-images",
            ("fid", "still_fid"),
        ),
        Claim("latents", "more latents beat fewer", "baseline", "latents-4"),
        Claim("patches", "1x4x4 patches beat temporal ones", "baseline", "temporal-patches"),
        Claim(
            "patches-wide",
            "1x4x4 patches beat temporal ones of twice the channels",
            "baseline",
            "temporal-patches-wide",
        ),
        Claim(
            "feed-forward",
            "feed-forwards after read and write beat none",
            "baseline",
            "no-feed-forward",
        ),
        Claim(
            "self-conditioning",
            "self-conditioning beats none",
            "baseline",
            "no-self-conditioning",
        ),
    )
}


def needed(claims: Iterable[Claim]) -> list[Variant]:
    """Return the variants that claims compare, each once, in the order of `VARIANTS`."""
    names = {name for claim in claims for name in (claim.better, claim.worse)}
    return [variant for name, variant in VARIANTS.items() if name in names]
