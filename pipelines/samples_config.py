"""Settings of what is sampled: at the end of a run, and by `snapvideo sample`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from infra.config import Settings
from serve.config import LowResNoise

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=2, le=100_000)]


class SampleSettings(Settings):
    """Which videos to ask the trained model for; the recipe of each, nothing about files."""

    prompts: tuple[str, ...] = ()
    """What to ask for. A run without any takes captions of sources that training never read, the
    demo combinations that its corpus never shows."""
    negative_prompt: str = ""
    """What the videos should not show; guidance leads away from it."""
    num_prompts: PositiveInt = 8
    """How many captions a run without `prompts` takes."""
    per_prompt: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Videos per prompt, each with a seed of its own."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Seed of the first video; each further one has the next, so that no two share their noise."""
    frames: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Frames per video; none takes the model's clip length. More are made clip by clip, over the
    framerates that the model was trained at."""
    fps: Positive | None = None
    """Frames per second; none takes the highest that the model was trained at."""
    steps: Steps = 24
    """Denoising steps of the first stage (Heun: two evaluations a step)."""
    steps_2: Steps = 12
    """Denoising steps of the second stage."""
    guidance: Weight = 3.0
    """Classifier-free guidance weight of the first stage; 1 is off."""
    guidance_low: Weight | None = None
    """Weight of every other step of the first stage, after its first tenth, so that guidance
    oscillates; none keeps it constant."""
    guidance_2: Weight = 1.0
    """Classifier-free guidance weight of the second stage; 1 is off."""
    reconstruction: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """How strongly a clip of a long video is pulled towards the frames it continues; 0 is off."""
    sigma_aug: LowResNoise = 0.2
    """Noise put on the first stage's video before the second reads it."""

    def wanted(self) -> list[tuple[str, int]]:
        """Return (prompt, seed) of every video, in the order of their numbers."""
        prompts = self.prompts * self.per_prompt
        return [(prompt, self.seed + number) for number, prompt in enumerate(prompts)]


class DrawSettings(Settings):
    """Where `snapvideo sample` takes weights and prompts from, and what files it writes."""

    format: tuple[Literal["mp4", "gif", "webp", "png"], ...] = ("mp4",)
    """Kinds of file to write; png is a folder of frames."""
    out: str = "samples"
    """Folder or URI that receives the files."""
    preview: NonNegativeInt = 0
    """Moments of each stage that a strip beside the video shows; 0 writes no strip."""
    prompts_file: str = ""
    """Text file with one prompt a line; - reads standard input."""
    stage1: str = ""
    """First stage: a checkpoint folder's path or URI, or a registered `name@alias` or `name@3`;
    empty takes `serve.models.stage1`."""
    stage2: str = ""
    """Second stage, named as `stage1` is, or none; empty takes `serve.models.stage2`, and none
    where `stage1` is named."""
    text_model: str = ""
    """Text encoder's folder or hub id; empty takes the one that the checkpoint names."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to sample; auto takes a GPU where there is one."""
    batch: PositiveInt = 8
    """Videos that are denoised together, at most."""
