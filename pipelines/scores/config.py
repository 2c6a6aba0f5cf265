"""Settings of scores and filters: what is measured, what must hold for a clip to count.

Nothing is filtered by default. A threshold refuses nothing while it is at its default, and it can
be changed at any time: scores are kept, so nothing is decoded again.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from infra.config import Settings
from infra.errors import ConfigError
from infra.store.selection import OF_THE_CLIP, Bound
from pipelines.scores.versions import VERSIONS, kinds_of


class ModelScorer(Settings):
    """One score, or one vector, that a model gives each clip."""

    name: str = Field(default="aesthetic", pattern=r"^[a-z][a-z0-9_]*$")
    """The scorer's name in table `scores`; a filter speaks of it by this name."""
    how: Literal["head", "prompts", "label", "vectors"] = "head"
    """head: CLIP image vector into a linear or MLP head (aesthetic). prompts: probability that
    CLIP gives to `prompts` against `against` (safety). label: probability that an image classifier
    gives to `label`. vectors: the CLIP image vector itself, into table `vectors`."""
    model: str = ""
    """Hub id, folder or s3:// prefix of the model; safetensors only, no code from it is run."""
    revision: str = "main"
    """Commit of the hub repository; pin one in earnest. Unused for a folder."""
    head: str = ""
    """Safetensors file with the head's weights: matrices [out, in] and biases, in order."""
    activation: Literal["none", "relu", "gelu"] = "none"
    """What stands between the head's matrices."""
    prompts: tuple[str, ...] = ()
    """What a high score means, in words."""
    against: tuple[str, ...] = ()
    """What a low score means, in words."""
    label: str = ""
    """Label of the classifier whose probability is the score."""
    num_frames: PositiveInt = 3
    """Frames of a video that are looked at, evenly spaced in time."""
    max_side_px: PositiveInt = 640
    """Longer side of a frame before the model's own resizing, pixels; larger ones are shrunk."""
    over_frames: Literal["mean", "most", "least"] = "mean"
    """How frames make one score: what must not appear at all wants `most`."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needs = {"head": self.head, "prompts": self.prompts and self.against, "label": self.label}
        if self.model and self.how in needs and not needs[self.how]:
            given = "`prompts` and `against`" if self.how == "prompts" else f"`{self.how}`"
            raise ValueError(f"scorer {self.name!r} with how={self.how!r} needs {given}")
        if self.name in VERSIONS:
            raise ValueError(f"scorer {self.name!r}: the name of a signal score; choose another")
        return self


class ScoreSettings(Settings):
    """What is measured of each clip."""

    at_ingest: bool = True
    """Measure signal scores while a clip is at hand; false leaves them to the stage `score`,
    which decodes the stored clips again."""
    signals: bool = True
    """Whether stage `score` measures signal scores that are missing or of an earlier version."""
    models: tuple[ModelScorer, ...] = ()
    """Scorers that need a model."""
    batch: PositiveInt = 16
    """Clips per forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto takes a GPU where the worker sees one."""
    num_workers: PositiveInt = 1
    """Actors, each with a copy of a model."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs that each actor reserves."""
    clips_per_commit: PositiveInt = 1000
    """Clips between two commits: what a kill can cost."""
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Share of clips that may stay without a score before the run fails."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [scorer.name for scorer in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two scorers are named {twice}; each needs a name of its own")
        return self


class ModelBound(Settings):
    """What the score of a model must be."""

    scorer: str
    """Name of one of `scores.models`."""
    least: float = float("-inf")
    """Lowest score that counts."""
    most: float = float("inf")
    """Highest score that counts."""


class DoubleSettings(Settings):
    """Which clips are near doubles, of which one stays."""

    phash: bool = False
    """Compare the perceptual hashes of the middle frames."""
    max_bits: int = Field(default=4, ge=0, le=12)
    """Hashes that differ in at most so many of their 64 bits are doubles. Distances are even, as
    every hash has as many ones as zeros; the work grows steeply beyond 6."""
    min_detail: float = Field(default=0.02, ge=0, le=1)
    """Flat pictures are not compared, as their hash is noise: least score `detail`."""
    vectors: str = ""
    """Name of a scorer of `scores.models` with how=vectors whose vectors are compared; empty:
    none."""
    min_cosine: float = Field(default=0.96, gt=0, le=1)
    """Vectors whose cosine is at least this are doubles."""
    same_source: bool = False
    """Whether clips of one source are compared with each other, such as two windows of a shot in
    which nothing moves."""
    memory_mib: PositiveInt = 1024
    """Memory for the search, MiB; the rest lies in a temporary folder."""


class FilterSettings(Settings):
    """Which clips count; by default all."""

    min_duration_s: NonNegativeFloat = 0.0
    """Shortest video, seconds."""
    max_duration_s: NonNegativeFloat = 0.0
    """Longest video, seconds; 0 is any."""
    min_side_px: NonNegativeInt = 0
    """Least width and least height, pixels."""
    min_fps: NonNegativeFloat = 0.0
    """Lowest frame rate, frames per second."""
    min_motion: NonNegativeFloat = 0.0
    """Least motion: how far what is seen moves, in picture sides a second."""
    max_motion: NonNegativeFloat = 0.0
    """Most motion, in picture sides a second; 0 is any."""
    max_static_share: float = Field(default=1.0, ge=0, le=1)
    """Largest share of the time in which nothing moves."""
    max_flicker: float = Field(default=1.0, ge=0, le=1)
    """Most flicker: mean jump of brightness to and fro between frames, share of the full range."""
    min_brightness: float = Field(default=0.0, ge=0, le=1)
    """Least mean brightness, share of the full range."""
    max_brightness: float = Field(default=1.0, ge=0, le=1)
    """Highest mean brightness, share of the full range."""
    min_contrast: float = Field(default=0.0, ge=0, le=1)
    """Least spread (standard deviation) of brightness over the picture, share of the range."""
    min_sharpness: NonNegativeFloat = 0.0
    """Least spread of the Laplacian at 640 px, share of the full range; blurred pictures have
    little."""
    max_text_area: float = Field(default=1.0, ge=0, le=1)
    """Largest share of the picture that lies under lines of text."""
    max_bar_share: float = Field(default=1.0, ge=0, le=1)
    """Largest share of the picture that is black border."""
    models: tuple[ModelBound, ...] = ()
    """What the scores of models must be."""
    doubles: DoubleSettings = DoubleSettings()
    """Near doubles."""

    def bounds(self, versions: Mapping[str, str] = VERSIONS) -> tuple[Bound, ...]:
        """Return the thresholds that are set, as bounds on the newest scores.

        Args:
            versions: Scorer to version; those of models have to be among them where `models`
                speaks of them (stage `score` tells them).

        Raises:
            ConfigError: `models` speaks of a scorer that is not set up.
        """
        found = [*_of_clips(self), *_of_signals(self, versions)]
        for bound in self.models:
            if bound.scorer not in versions:
                known = sorted(set(versions) - set(VERSIONS)) or "none is set up"
                raise ConfigError(
                    f"filter.models: no scorer {bound.scorer!r}; scores.models has {known}"
                )
            found.append(
                Bound(
                    scorer=bound.scorer,
                    version=versions[bound.scorer],
                    least=bound.least,
                    most=bound.most,
                )
            )
        return tuple(found)


def _of_clips(settings: FilterSettings) -> list[Bound]:
    """Return bounds on columns of the clips table."""
    limits = {
        "duration_s": (settings.min_duration_s, settings.max_duration_s),
        "width": (settings.min_side_px, 0),
        "height": (settings.min_side_px, 0),
        "fps": (settings.min_fps, 0),
    }
    return [
        Bound(
            scorer=name,
            version=OF_THE_CLIP,
            least=least,
            most=most or float("inf"),
            kinds=("video",) if name in ("duration_s", "fps") else ("video", "image"),
        )
        for name, (least, most) in limits.items()
        if least or most
    ]


def _of_signals(settings: FilterSettings, versions: Mapping[str, str]) -> list[Bound]:
    whole = float("inf")
    limits: dict[str, tuple[float, float]] = {
        "motion": (settings.min_motion, settings.max_motion or whole),
        "static_share": (0.0, _open(settings.max_static_share)),
        "flicker": (0.0, _open(settings.max_flicker)),
        "brightness": (settings.min_brightness, _open(settings.max_brightness)),
        "contrast": (settings.min_contrast, whole),
        "sharpness": (settings.min_sharpness, whole),
        "text_area": (0.0, _open(settings.max_text_area)),
        "bar_share": (0.0, _open(settings.max_bar_share)),
    }
    return [
        Bound(scorer=name, version=versions[name], least=least, most=most, kinds=kinds_of(name))
        for name, (least, most) in limits.items()
        if (least, most) != (0.0, whole)
    ]


def _open(most: float) -> float:
    """Return a bound on a share; a share is never above 1, so 1 is none."""
    return float("inf") if most >= 1.0 else most
