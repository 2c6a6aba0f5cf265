"""Settings of serving: where it listens, what it serves, how replicas share the work.

One section of the tree that `snapvideo serve` and `snapvideo run` read.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from infra.config import Settings

LowResNoise = Annotated[float, Field(ge=0.001, le=10, allow_inf_nan=False)]
"""Noise on the clip that the second stage reads, whose pixels are in [-1, 1]: below 0.001 there is
none to see, above 10 no clip."""


class ModelSettings(Settings):
    """Which weights answer requests."""

    name: str = "snapvideo"
    """What a request's `model` says; also the only entry of /v1/models."""
    stage1: str = "snapvideo-stage1@champion"
    """First stage: a checkpoint folder's path or URI, or a registered `name@alias` or `name@3`."""
    stage2: str = "snapvideo-stage2@champion"
    """Second stage, named as `stage1` is; empty serves the first stage alone."""
    text_model: str = ""
    """Text encoder's folder or hub id; empty takes the one the checkpoint names."""
    source_height_px: NonNegativeInt = 0
    """Height that the network is told its clips were recorded at; 0 takes the checkpoint's."""
    source_width_px: NonNegativeInt = 0
    """Width that the network is told its clips were recorded at; 0 takes the checkpoint's."""


class DefaultSettings(Settings):
    """What a request gets where it says nothing."""

    steps: PositiveInt = 32
    """Denoising steps of the first stage (Heun: two evaluations a step)."""
    steps_2: PositiveInt = 16
    """Denoising steps of the second stage."""
    guidance: PositiveFloat = 4.0
    """Classifier-free guidance weight of the first stage; 1 is off."""
    guidance_2: PositiveFloat = 1.0
    """Classifier-free guidance weight of the second stage; 1 is off."""
    guidance_low: NonNegativeFloat = 0.0
    """Weight that the first stage takes every other step once a tenth of them is over
    (oscillating guidance); 0 keeps `guidance` throughout."""
    reconstruction: NonNegativeFloat = 1.0
    """How strongly each window of a long video is pulled to the frames it is given; 0 is off.
    Small models lose the new frames at 4, where a Gaussian is best (train/LOG.md)."""
    sigma_aug: LowResNoise = 0.2
    """Noise added to the first stage's clip before the second one reads it (pixels in [-1, 1])."""
    fps: NonNegativeInt = 0
    """Frames per second; 0 takes the highest framerate the model was trained on."""


class LimitSettings(Settings):
    """What a request may ask for at most."""

    num_frames: PositiveInt = 512
    """Frames of a video. A replica holds up to 3 bytes per pixel of each frame for every job of
    its group (`batch`), 0.4 MB at 288x512, and writes them with each saved state."""
    steps: PositiveInt = 1000
    """Denoising steps of one clip, per stage."""
    total_steps: PositiveInt = 20_000
    """Denoising steps of all clips of a long video in both stages."""
    guidance: PositiveFloat = 50.0
    """Guidance weight per stage, and weight of reconstruction."""
    prompt_chars: PositiveInt = 4000
    """Characters of a prompt or negative prompt."""
    body_bytes: PositiveInt = 1_000_000
    """Bytes of a request's body."""


class ServeSettings(Settings):
    """One serving application: HTTP ingress, job table, sampling replicas."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port of the HTTP ingress."""
    folder: str = ""
    """Folder or URI of finished videos and of the states that interrupted jobs resume from;
    empty is `serve` in the run's folder."""
    database: str = ""
    """SQLAlchemy URL of the job table; empty is SQLite in `folder` (which must then be local)."""
    models: ModelSettings = ModelSettings()
    """The weights that are served."""
    defaults: DefaultSettings = DefaultSettings()
    """Values for what a request leaves open."""
    limits: LimitSettings = LimitSettings()
    """Bounds of what a request may ask for."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to sample; auto takes a GPU where there is one."""
    replicas: PositiveInt = 1
    """Sampling replicas; each loads the weights once."""
    threads: PositiveInt = 1
    """CPU cores (torch threads) per replica."""
    batch: PositiveInt = 8
    """Jobs of one shape that a replica denoises together, at most."""
    lease_s: PositiveFloat = 15.0
    """Seconds after which the jobs of a silent replica go to another one."""
    idle_poll_s: PositiveFloat = 0.1
    """Seconds between two looks at the job table while there is nothing to do."""
    checkpoint_every: PositiveInt = 16
    """Denoising steps between two saved states of a running job."""
    max_attempts: PositiveInt = 3
    """Times a job is started before it is failed as one that kills its replica."""
    poll_after_ms: PositiveInt = 500
    """Milliseconds a client is told to wait between two looks at a job."""
    start_timeout_s: PositiveFloat = 180.0
    """Seconds the replicas may take to load before starting is given up."""
