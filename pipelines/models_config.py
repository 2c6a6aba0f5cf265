"""Settings of `snapvideo model describe`: how the preset would be trained and asked."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from infra.config import Settings


class DescribeSettings(Settings):
    """What the figures hold for."""

    batch: PositiveInt = 1
    """Clips of one worker in one pass."""
    workers: PositiveInt = 1
    """Workers that ZeRO shards among."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of matrix products in training."""
    checkpointing: bool = False
    """Whether blocks are computed anew in the backward pass."""
    text_tokens: PositiveInt = 128
    """Text tokens per clip."""
    text_width: NonNegativeInt = 0
    """Width of the text encoder; 0 takes the preset's."""
