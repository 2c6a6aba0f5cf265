"""What one stage trains: its network's shape, its diffusion and what lies below it.

Follows from the settings, the width of the text embeddings and, for stage 2, from the checkpoint
of stage 1; also the weights that training starts from.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from infra.errors import ConfigError
from train import bundle
from train.config import TrainSettings
from train.diffusion.edm import Draws, Edm, LowResNoise, draw, input_scale
from train.model.cascade import init_from_stage1
from train.model.fit import Fit, FitConfig
from train.model.presets import PRESETS


@dataclass(frozen=True)
class Blueprint:
    """The network and diffusion of a stage; plain values, so that it fits into a config."""

    fit: FitConfig
    edm: Edm
    low_shape: tuple[int, int, int, int] | None
    low_noise: LowResNoise
    label_dropout: float
    self_conditioning: float

    @classmethod
    def build(
        cls, settings: TrainSettings, text_width: int, below: dict[str, Any] | None
    ) -> "Blueprint":
        """Return the blueprint of a stage.

        Args:
            settings: The stage's.
            text_width: Width of the text embeddings.
            below: Config of stage 1's checkpoint where this is stage 2.

        Raises:
            ConfigError: The preset is of the other stage, or does not fit stage 1's.
        """
        fit = replace(
            PRESETS[settings.preset],
            text_width=text_width,
            dropout=settings.dropout,
            checkpointing=settings.checkpointing,
        )
        lower = FitConfig.from_dict(below["model"]) if below else None
        _check(settings.preset, fit, lower)
        reference = lower or fit
        knobs = settings.diffusion
        edm = Edm(
            sigma_in=input_scale(fit.frames, fit.width, reference.width),
            p_mean=knobs.p_mean,
            p_std=knobs.p_std,
            sigma_min=knobs.sigma_min,
            sigma_max=knobs.sigma_max,
        )
        return cls(
            fit=fit,
            edm=edm,
            low_shape=lower.clip_shape if lower else None,
            low_noise=LowResNoise(knobs.sigma_aug_low, knobs.sigma_aug_high),
            label_dropout=knobs.label_dropout,
            self_conditioning=knobs.self_conditioning,
        )

    def draws(self, seeds: tuple[int, ...]) -> Draws:
        """Return the randomness of a batch whose samples have these seeds."""
        return draw(
            seeds,
            self.fit.clip_shape,
            self.edm,
            label_dropout=self.label_dropout,
            self_conditioning=self.self_conditioning,
            low_shape=self.low_shape,
            low_noise=self.low_noise,
        )

    def network(self, seed: int, init_bundle: str) -> Fit:
        """Return the network with its first weights: seeded, or grown from stage 1's average.

        Raises:
            ConfigError: Stage 1's weights do not fit this preset.
        """
        torch.manual_seed(seed)
        model = Fit(self.fit)
        if init_bundle:
            below = bundle.load(init_bundle)
            try:
                init_from_stage1(model, below.model.state_dict(), below.model.config)
            except (ValueError, RuntimeError) as fault:
                raise ConfigError(
                    f"stage 2 cannot start from {init_bundle}: {fault}; use stage 1's preset "
                    "with -up behind its name"
                ) from fault
        return model

    def to_config(self, source_size: dict[str, int] | None = None) -> dict[str, Any]:
        """Return what a checkpoint's config.json says of the network and the diffusion.

        Args:
            source_size: `source_height` and `source_width` of the training data, in pixels.
        """
        low = self.low_shape
        return {
            "model": self.fit.to_dict(),
            "edm": self.edm.to_dict(),
            "native": {
                "frames": self.fit.frames, "height": self.fit.height, "width": self.fit.width,
                **(source_size or {}),
            },
            "low_res": {"height": low[2], "width": low[3]} if low else None,
            "low_noise": {"low": self.low_noise.low, "high": self.low_noise.high},
        }  # fmt: skip


def _check(preset: str, fit: FitConfig, lower: FitConfig | None) -> None:
    if fit.low_res and lower is None:
        raise ConfigError(
            f"preset: '{preset}' is an upsampler and this is stage 1; use "
            f"'{preset.removesuffix('-up')}'"
        )
    if lower is None:
        return
    if not fit.low_res:
        raise ConfigError(f"preset: '{preset}' is no upsampler and this is stage 2; add -up")
    for name in ("frames", "text_width"):
        here, there = getattr(fit, name), getattr(lower, name)
        if here != there:
            raise ConfigError(
                f"preset: '{preset}' has {name} {here}, the stage below has {there}; use its "
                "preset with -up behind the name, and the same text encoder"
            )
