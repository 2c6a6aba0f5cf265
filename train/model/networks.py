"""The networks there are: built from a config, which a file may have described."""

from dataclasses import replace
from typing import Any

from train.model.fit import Fit, FitConfig
from train.model.presets import PRESETS
from train.model.unet import UNet, UNetConfig

ModelConfig = FitConfig | UNetConfig
Network = Fit | UNet


def build(config: ModelConfig) -> Network:
    """Return the network of a shape, with fresh weights."""
    return UNet(config) if isinstance(config, UNetConfig) else Fit(config)


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """Return the config that `to_dict` described; `kind` is "unet" or "fit", a FIT where absent.

    Raises:
        ValueError: The kind is unknown.
        TypeError: A value is missing, or one is given that the kind does not have.
    """
    kind = values.get("kind", "fit")
    if kind == "unet":
        return UNetConfig.from_dict(values)
    if kind != "fit":
        raise ValueError(f"kind: '{kind}' is no network of this version; known: fit, unet")
    return FitConfig.from_dict({name: value for name, value in values.items() if name != "kind"})


def preset_of(config: ModelConfig) -> str:
    """Return the name of the preset with this shape, or "" where none has it.

    Text width, dropout and checkpointing are set by every run and do not count.
    """
    for name, preset in PRESETS.items():
        if same_shape(config, preset):
            return name
    return ""


def same_shape(first: ModelConfig, second: ModelConfig) -> bool:
    """Return whether two configs differ at most in text width, dropout and checkpointing."""
    return first == replace(
        second,
        text_width=first.text_width,
        dropout=first.dropout,
        checkpointing=first.checkpointing,
    )
