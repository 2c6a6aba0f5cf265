"""Settings of training, one instance per stage; importing them imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from infra.config import Settings

Preset = Literal[
    "fit-500m", "fit-3.9b", "fit-3.9b-up", "micro", "micro-up", "tiny", "tiny-up", "demo",
    "demo-up", "small", "unet-284m", "unet-85m", "unet-micro",
]  # fmt: skip
Share = Annotated[float, Field(ge=0, le=1)]


class OptimizerSettings(Settings):
    """LAMB, its schedule and the average of the weights."""

    lr: PositiveFloat = 5e-3
    """Peak learning rate, before the trust ratio."""
    warmup_steps: NonNegativeInt = 10_000
    """Steps of linear warm-up."""
    lr_floor: Share = 0.0
    """Learning rate at the end of the cosine, as a share of the peak."""
    beta_1: Share = 0.9
    """Decay of the mean gradient, per step."""
    beta_2: Share = 0.99
    """Decay of the mean squared gradient, per step."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay of matrices, added to their direction; tables, biases and gains have none."""
    clip_norm: NonNegativeFloat = 1.0
    """Global gradient norm above which gradients are scaled down; 0 is off."""
    ratio_min: NonNegativeFloat = 0.01
    """Least trust ratio; 0 is LAMB as published."""
    ratio_max: NonNegativeFloat = 10.0
    """Greatest trust ratio; 0 is no bound, LAMB as published."""
    weight_norm_clamp: NonNegativeFloat = 0.0
    """Weight norms above this count as this in the trust ratio; 0 is no bound."""
    exempt_lr_scale: NonNegativeFloat = 0.2
    """Learning rate of biases, gains and frequencies, as a factor."""
    ema_half_life_steps: PositiveFloat = 6000.0
    """Half-life of the averaged weights, in steps."""
    ema_ramp: PositiveFloat = 0.05
    """Half-life early in the run, as a share of the steps made so far."""


class DiffusionSettings(Settings):
    """The distribution of noise in training, and what sampling covers."""

    p_mean: float = -1.2
    """Mean of ln(sigma) in training."""
    p_std: PositiveFloat = 1.2
    """Standard deviation of ln(sigma) in training."""
    sigma_min: PositiveFloat = 0.002
    """Last noise level of sampling."""
    sigma_max: PositiveFloat = 80.0
    """First noise level of sampling."""
    label_dropout: Share = 0.1
    """Share of samples whose text is hidden, for guidance."""
    self_conditioning: Share = 0.9
    """Share of samples that get the latents of a first pass."""
    sigma_aug_low: PositiveFloat = 0.02
    """Least noise on the lower stage's clip (stage 2)."""
    sigma_aug_high: PositiveFloat = 1.0
    """Greatest noise on the lower stage's clip (stage 2)."""


class ReaderSettings(Settings):
    """How clips are read."""

    framerates: tuple[PositiveFloat, ...] = (24.0, 12.0, 6.0, 3.0)
    """Frames per second a video may be shown at; one is drawn among those that fit the clip."""
    cache_mib: NonNegativeInt = 1024
    """Memory per worker for decoded clips at the training size, MiB."""
    processes: NonNegativeInt = 0
    """Decoding processes per worker; 0 decodes in the worker itself."""
    window_shards: PositiveInt = 256
    """Media shards whose clips are shuffled together."""
    max_bad_share: Share = 0.05
    """Share of clips that may turn out unreadable before training stops."""


class TrainSettings(Settings):
    """Training of one stage."""

    preset: Preset = "micro"
    """Shape of the network."""
    dropout: Share = 0.1
    """Dropout in the feed-forwards after self-attention."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass to save memory."""
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_videos: NonNegativeInt = 16
    """Video clips per step, over all workers."""
    batch_images: NonNegativeInt = 16
    """Images per step, over all workers, each shown as a still video."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """LAMB and its schedule."""
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
        if not self.batch_videos + self.batch_images:
            raise ValueError("batch_videos and batch_images are both 0; give one of them")
        for name in ("batch_videos", "batch_images"):
            if getattr(self, name) % self.num_workers:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be a multiple of num_workers "
                    f"({self.num_workers})"
                )
        return self
