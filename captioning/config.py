"""Settings of captioning: which model sees which frames and is asked what."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from infra.config import Settings


class FrameSettings(Settings):
    """What a captioner sees of a clip."""

    num_frames: PositiveInt = 8
    """Frames of a video, evenly spaced in time, first and last included; a still gives one."""
    max_side_px: PositiveInt = 448
    """Longer side of a frame, pixels; larger frames are shrunk."""


class CaptionSettings(Settings):
    """The model that writes missing captions, and how it is run."""

    model: str = "local"
    """`local` (train one on this corpus), a hub id, or a folder; safetensors only."""
    revision: str = "main"
    """Commit of the hub repository; pin one in earnest. Unused for a folder."""
    prompt_file: str = ""
    """UTF-8 file with the question to the model; empty is `captioning/prompts/video.txt`."""
    frames: FrameSettings = FrameSettings()
    """What the model sees."""
    max_new_tokens: PositiveInt = 256
    """Longest answer, tokens; an answer that reaches it counts as truncated. Words are chosen
    greedily, so the same clip gets the same caption."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model."""
    batch: PositiveInt = 16
    """Clips per forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes a GPU where the worker sees one."""
    num_workers: PositiveInt = 1
    """Actors, each with a copy of the model."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs that each actor reserves."""
    clips_per_commit: PositiveInt = 128
    """Clips between two commits: what a kill can cost."""
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Share of clips that may stay without a usable caption before the run fails."""


class LocalCaptionerSettings(Settings):
    """The small captioner that is built and trained on the captioned part of a corpus."""

    num_frames: PositiveInt = 8
    """Frames that it sees of a clip; even."""
    side_px: PositiveInt = 32
    """Frames are squeezed to this side, pixels; a multiple of 8."""
    width: PositiveInt = 64
    """Channels of encoder and decoder; a multiple of 32."""
    encoder_layers: PositiveInt = 3
    """Transformer layers over the video."""
    decoder_layers: PositiveInt = 2
    """Transformer layers over the words."""
    init_std: PositiveFloat = 0.08
    """Spread of the initial weights; the libraries' 0.02 is made for wide models."""
    max_clips: PositiveInt = 5000
    """Captioned clips used at most; they are held in memory."""
    min_clips: PositiveInt = 16
    """Captioned clips needed at least."""
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch: PositiveInt = 32
    """Clips per step."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate of AdamW; a cosine to zero after a short warm-up."""
    num_threads: PositiveInt = 1
    """CPU threads; so small a model gains little from a second one."""
    save_every: PositiveInt = 200
    """Steps between two saved states: what a kill can cost."""
    report_every: PositiveInt = 50
    """Steps between two progress lines."""
    seed: NonNegativeInt = 0
    """Of weights, order and augmentation."""
