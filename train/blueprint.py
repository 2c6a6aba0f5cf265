"""What one stage trains: its network's shape, its diffusion and what lies below it.

Follows from the settings, the width of the text embeddings and, for stage 2, from the checkpoint
of stage 1; also the weights that training starts from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from infra.errors import ConfigError
from train import bundle
from train.config import TrainSettings
from train.diffusion.edm import Draws, Edm, LowResNoise, draw, input_scale
from train.model.cascade import init_from_stage1
from train.model.fit import Fit, FitConfig
from train.model.networks import ModelConfig, Network, build, config_from_dict, preset_of
from train.model.presets import PRESETS


@dataclass(frozen=True)
class Blueprint:
    """The network and diffusion of a stage; plain values, so that it fits into a config."""

    model: ModelConfig
    edm: Edm
    low_shape: tuple[int, int, int, int] | None
    low_noise: LowResNoise
    label_dropout: float
    self_conditioning: float
    images_are_videos: bool

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
        model = replace(
            PRESETS[settings.preset],
            text_width=text_width,
            dropout=settings.dropout,
            checkpointing=settings.checkpointing,
        )
        lower = config_from_dict(below["model"]) if below else None
        _check(settings.preset, model, lower)
        reference = lower or model
        knobs = settings.diffusion
        edm = Edm(
            sigma_in=knobs.sigma_in or input_scale(model.frames, model.width, reference.width),
            sigma_data=knobs.sigma_data,
            p_mean=knobs.p_mean,
            p_std=knobs.p_std,
            sigma_min=knobs.sigma_min,
            sigma_max=knobs.sigma_max,
        )
        return cls(
            model=model,
            edm=edm,
            low_shape=lower.clip_shape if lower else None,
            low_noise=LowResNoise(knobs.sigma_aug_low, knobs.sigma_aug_high),
            label_dropout=knobs.label_dropout,
            self_conditioning=knobs.self_conditioning if model.carries else 0.0,
            images_are_videos=knobs.images == "video",
        )

    def draws(self, seeds: Sequence[int], is_image: Sequence[bool]) -> Draws:
        """Return the randomness of a batch whose samples have these seeds."""
        return draw(
            seeds,
            self.model.clip_shape,
            self.edm,
            label_dropout=self.label_dropout,
            self_conditioning=self.self_conditioning,
            low_shape=self.low_shape,
            low_noise=self.low_noise,
            still=None if self.images_are_videos else is_image,
        )

    def network(self, seed: int, init_bundle: str) -> Network:
        """Return the network with its first weights: seeded, or grown from stage 1's average."""
        torch.manual_seed(seed)
        model = build(self.model)
        if init_bundle:
            below = bundle.load(init_bundle).model
            assert isinstance(model, Fit), "build() refuses a U-Net as stage 2"
            assert isinstance(below.config, FitConfig), "build() refuses a U-Net below stage 2"
            init_from_stage1(model, below.state_dict(), below.config)
        return model

    def to_config(self, source_size: dict[str, int] | None = None) -> dict[str, Any]:
        """Return what a checkpoint's config.json says of the network and the diffusion.

        Args:
            source_size: `source_height` and `source_width` of the training data, in pixels.
        """
        low = self.low_shape
        return {
            "model": self.model.to_dict(),
            "edm": self.edm.to_dict(),
            "native": {
                "frames": self.model.frames, "height": self.model.height, "width": self.model.width,
                **(source_size or {}),
            },
            "low_res": {"height": low[2], "width": low[3]} if low else None,
            "low_noise": {"low": self.low_noise.low, "high": self.low_noise.high},
        }  # fmt: skip


def _check(preset: str, model: ModelConfig, lower: ModelConfig | None) -> None:
    if model.low_res and lower is None:
        raise ConfigError(
            f"preset: '{preset}' is an upsampler and this is stage 1; use "
            f"'{preset.removesuffix('-up')}'"
        )
    if lower is None:
        return
    if not isinstance(lower, FitConfig):
        raise ConfigError(
            f"preset: stage 1 is '{preset_of(lower) or 'a U-Net'}', and U-Nets are first-stage "
            "baselines with nothing above them; train stage 1 with a FIT, such as 'fit-500m'"
        )
    if not isinstance(model, FitConfig) or not model.low_res:
        hint = _upsampler_of(lower)
        raise ConfigError(f"preset: '{preset}' is no upsampler and this is stage 2; {hint}")
    _check_growth(preset, model, lower)


def _check_growth(preset: str, model: FitConfig, lower: FitConfig) -> None:
    """Find out on the meta device whether stage 1's weights fit."""
    for name in ("frames", "text_width"):
        here, there = getattr(model, name), getattr(lower, name)
        if here != there:
            raise ConfigError(
                f"preset: '{preset}' has {name} {here}, the stage below has {there}; "
                f"{_upsampler_of(lower)}, and the same text encoder"
            )
    with torch.device("meta"):
        up, below = Fit(model), Fit(lower)
    try:
        init_from_stage1(up, below.state_dict(), lower)
    except (ValueError, RuntimeError) as fault:
        raise ConfigError(
            f"preset: '{preset}' cannot grow from the stage below, which is "
            f"'{preset_of(lower) or 'of no preset'}': {fault}; {_upsampler_of(lower)}"
        ) from fault


def _upsampler_of(lower: FitConfig) -> str:
    name = f"{preset_of(lower)}-up"
    return f"use '{name}'" if name in PRESETS else "use stage 1's preset with -up behind its name"
