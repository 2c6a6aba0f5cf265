"""Settings of training, one instance per stage; importing them imports no torch."""

import math
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from infra.config import Settings

Preset = Literal[
    "fit-500m", "fit-3.9b", "fit-3.9b-up", "micro", "micro-up", "tiny", "tiny-up", "demo",
    "demo-up", "small", "unet-284m", "unet-85m", "unet-micro",
]  # fmt: skip
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_LAMB_ONLY = ("ratio_min", "ratio_max", "weight_norm_clamp", "exempt_lr_scale")


class OptimizerSettings(Settings):
    """The optimizer, its schedule and the average of the weights."""

    name: Literal["lamb", "adam"] = "lamb"
    """LAMB, or Adam with decoupled decay (AdamW), which has no trust ratio."""
    lr: Positive = 5e-3
    """Peak learning rate, before the trust ratio; the paper's Adam has 1e-4."""
    warmup_steps: NonNegativeInt = 10_000
    """Steps of linear warm-up."""
    lr_floor: Share = 0.0
    """Learning rate at the end of the cosine, as a share of the peak."""
    beta_1: Share = 0.9
    """Decay of the mean gradient, per step."""
    beta_2: Share = 0.99
    """Decay of the mean squared gradient, per step; the paper's Adam has 0.999."""
    weight_decay: NonNegative = 0.01
    """Decay of matrices, added to their direction; tables, biases and gains have none."""
    clip_norm: NonNegative = 1.0
    """Global gradient norm above which gradients are scaled down; 0 is off."""
    ratio_min: NonNegative = 0.01
    """Least trust ratio; 0 is LAMB as published."""
    ratio_max: NonNegative = 10.0
    """Greatest trust ratio; 0 is no bound, LAMB as published."""
    weight_norm_clamp: NonNegative = 0.0
    """Weight norms above this count as this in the trust ratio; 0 is no bound."""
    exempt_lr_scale: NonNegative = 0.2
    """Learning rate of biases, gains and frequencies, as a factor."""
    ema_half_life_steps: Positive = 6000.0
    """Half-life of the averaged weights, in steps."""
    ema_ramp: Positive = 0.05
    """Half-life early in the run, as a share of the steps made so far."""

    @model_validator(mode="after")
    def _heeded(self) -> Self:
        fields = type(self).model_fields
        idle = [n for n in _LAMB_ONLY if getattr(self, n) != fields[n].default]
        if self.name == "adam" and idle:
            raise ValueError(
                f"{', '.join(idle)}: of LAMB only, and name is 'adam'; leave out, or take 'lamb'"
            )
        return self


class DiffusionSettings(Settings):
    """The distribution of noise in training, and what sampling covers.

    `sigma_in: 1, sigma_data: 0.5` is plain EDM, which the paper compares with.
    """

    sigma_in: NonNegative = 0.0
    """Divides a clean clip before noise is added; 0 derives it: sqrt(frames), times how much wider
    this stage is than the first."""
    sigma_data: Positive = 1.0
    """Assumed standard deviation of the pixels in [-1, 1]."""
    images: Literal["video", "still"] = "video"
    """An image is a video of infinite framerate with noise of its own in each frame, or one noisy
    still that is repeated, the answers for its frames being averaged (the paper's ablation)."""
    p_mean: FiniteFloat = -1.2
    """Mean of ln(sigma) in training."""
    p_std: Positive = 1.2
    """Standard deviation of ln(sigma) in training."""
    sigma_min: Positive = 0.002
    """Last noise level of sampling."""
    sigma_max: Positive = 80.0
    """First noise level of sampling."""
    label_dropout: Share = 0.1
    """Share of samples whose text is hidden, for guidance."""
    self_conditioning: Share = 0.9
    """Share of samples that get the latents of a first pass."""
    sigma_aug_low: Positive = 0.02
    """Least noise on the lower stage's clip (stage 2)."""
    sigma_aug_high: Positive = 1.0
    """Greatest noise on the lower stage's clip (stage 2)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min ({self.sigma_min}) must be below sigma_max ({self.sigma_max})"
            )
        if self.sigma_aug_low > self.sigma_aug_high:
            raise ValueError(
                f"sigma_aug_low ({self.sigma_aug_low}) must not be above sigma_aug_high "
                f"({self.sigma_aug_high})"
            )
        return self


class ReaderSettings(Settings):
    """How clips are read."""

    framerates: tuple[float, ...] = (24.0, 12.0, 6.0, 3.0)
    """Frames per second a video may be shown at; one is drawn among those that fit the clip."""
    crop: Literal["center", "random"] = "center"
    """Which part of a frame is shown where its aspect is another than the model's."""
    cache_mib: NonNegativeInt = 1024
    """Memory per process for decoded clips, MiB; used where all clips fit, so that each is decoded
    once. Larger corpora are decoded anew each time, only the frames that are shown."""
    read_ahead: NonNegativeInt = 16
    """Clips per process whose bytes are fetched before they are needed; 0 fetches none ahead."""
    fetch_threads: PositiveInt = 4
    """Ranges that a process fetches at once."""
    disk_cache: str = ""
    """Local folder for what is fetched from S3, shared by the processes of a node; empty:
    `snapvideo` in the user's cache folder."""
    disk_cache_mib: NonNegativeInt = 20_480
    """Size of the clips in that folder, MiB; 0 keeps none."""
    processes: NonNegativeInt = 0
    """Decoding processes per worker; 0 decodes in the worker itself."""
    window_shards: PositiveInt = 256
    """Media shards whose clips are shuffled together."""
    max_bad_share: Share = 0.05
    """Share of clips that may turn out unreadable before training stops."""

    @field_validator("framerates")
    @classmethod
    def _shown(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        odd = [fps for fps in values if not 0 < fps < math.inf]
        if odd or not values:
            raise ValueError(
                f"{', '.join(map(str, odd)) or 'nothing'} is no framerate of a video; give "
                "finite frames per second above 0, such as 24 12 6 3 (images have none and need "
                "no entry)"
            )
        return values


class TrainSettings(Settings):
    """Training of one stage."""

    preset: Preset = "micro"
    """Shape of the network."""
    dropout: Share = 0.1
    """Dropout in the feed-forwards after self-attention."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass to save memory."""
    compile: bool = False
    """Compile the network with torch.compile; needs a C++ compiler and zero_stage 0 to 2."""
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_videos: NonNegativeInt = 16
    """Video clips per step, over all workers."""
    batch_images: NonNegativeInt = 16
    """Images per step, over all workers, each shown as a still video."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The optimizer and its schedule."""
    diffusion: DiffusionSettings = DiffusionSettings()
    """Noise and conditioning in training."""
    reader: ReaderSettings = ReaderSettings()
    """Reading of clips."""
    seed: NonNegativeInt = 0
    """Seed of weights, order, noise and dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of matrix products; with bf16 norms, softmax and master weights stay fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards: 1 optimizer, 2 and gradients, 3 and weights."""
    num_workers: PositiveInt = 2
    """Training processes."""
    gpus: bool = False
    """Give each worker a GPU."""
    threads: PositiveInt = 1
    """CPU threads per worker."""
    max_failures: NonNegativeInt = 3
    """Times the workers are restarted from the last checkpoint before training is given up."""
    report_every: PositiveInt = 20
    """Steps between two lines of statistics."""
    save_every: PositiveInt = 200
    """Steps between two checkpoints."""
    keep: PositiveInt = 2
    """Checkpoints kept."""

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile: true does not go with zero_stage 3, which fetches the weights layer by "
                "layer; set zero_stage to 2, or compile to false"
            )
        if not self.batch_videos + self.batch_images:
            raise ValueError("batch_videos and batch_images are both 0; give one of them")
        for name in ("batch_videos", "batch_images"):
            if getattr(self, name) % self.num_workers:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be a multiple of num_workers "
                    f"({self.num_workers})"
                )
        return self
