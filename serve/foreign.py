"""What serving reads of a checkpoint, checked before anything relies on it.

A checkpoint may come from anywhere: a value of the wrong type, or a length that no clip has, is
refused by its name before memory is taken for it. The shape of the network itself is checked where
it is built (`train.model`).

    check_config(bundle.read_config(uri))
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from infra.errors import DataError

_MAX_FPS = 1e5
"""No camera is faster; a video file cannot say much more."""


def _shown(fps: float) -> float:
    """Refuse framerates that no video has; an image's is infinite."""
    if not 0 < fps <= _MAX_FPS and fps != math.inf:
        raise ValueError(f"must be above 0 and at most {_MAX_FPS:g} frames/s, or infinite")
    return fps


Rate = Annotated[float, pydantic.AfterValidator(_shown)]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
Sigma = Annotated[float, Field(ge=1e-6, le=1e6)]
SourceSide = Annotated[int, Field(ge=0, le=1 << 16)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Clip(_Part):
    """Of `model`: windows share a frame, so a clip has at least 2."""

    frames: Annotated[int, Field(ge=2, le=1 << 16)]
    height: Side
    width: Side


class _Edm(_Part):
    """Of `edm`: what sampling walks by; between these bounds no power of it overflows."""

    sigma_in: Sigma
    sigma_data: Sigma
    sigma_min: Sigma
    sigma_max: Sigma
    rho: Annotated[float, Field(ge=0.1, le=1000)]


class _Source(_Part):
    """Of `native`: what the clips were recorded at, in pixels; 0 is unknown."""

    source_height: SourceSide = 0
    source_width: SourceSide = 0


class _Encoder(_Part):
    """Of `text_encoder`."""

    model: str
    revision: str
    encoder_id: str
    max_tokens: Annotated[int, Field(ge=1, le=1 << 16)]
    dtype: Literal["float32", "bfloat16"] = "float32"


class _Config(_Part):
    model: _Clip
    edm: _Edm
    native: _Source
    text_encoder: _Encoder
    framerates: list[Rate]


def check_config(config: Mapping[str, Any]) -> None:
    """Check what serving will read.

    Raises:
        DataError: A value is missing, of another type or out of bounds.
    """
    try:
        _Config.model_validate(config)
    except pydantic.ValidationError as fault:
        first = fault.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        received = str(first["input"])[:80]
        raise DataError(
            f"config.json: {name}: {first['msg']}, got {received!r}; choose another checkpoint"
        ) from fault


def check_weights(uri: str, network: nn.Module) -> None:
    """Check that the loaded weights are numbers.

    Raises:
        DataError: One is infinite or none at all.
    """
    for name, weight in network.state_dict().items():
        if not weight.isfinite().all():
            raise DataError(
                f"{uri}/model.safetensors: {name} holds values that are not finite; choose another "
                "checkpoint"
            )
