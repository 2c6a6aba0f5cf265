"""What samples are measured by; NumPy in float64.

toy-FID and toy-FVD are Fréchet distances between normal distributions fitted to features of real
and of sampled clips, as FID and FVD are, but on features that need no learned network: principal
components of real single frames (FID), and of whole real clips together with their frame
differences (FVD), plus one feature each for how far a clip lies from what those components span,
which is where noise goes. Components are scaled so that the real ones have a total variance of 1
for frames, clips and differences each: one constant picture is at about 1 in toy-FID and 2 in
toy-FVD, and noise may be further off. Values compare within one size of clip only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.metrics.attributes import Attributes
from train.metrics.detector import accuracy, detect

Floats = NDArray[np.floating[Any]]

NUM_COMPONENTS = 16
JUDGED_SCALE = 4
"""Samples are enlarged so for the judge, whose thresholds are made for 24x32 px or more."""


@dataclass(frozen=True)
class Basis:
    """Principal components of one kind of real data, and the scale of its features."""

    mean: Floats
    rows: Floats
    scale: float

    @classmethod
    def fit(cls, flat: Floats) -> "Basis":
        """Return the first components of `flat` [n, values]."""
        mean = flat.mean(0)
        centred = flat - mean
        values, vectors = np.linalg.eigh(centred @ centred.T)
        rows = vectors[:, -NUM_COMPONENTS:].T @ centred
        rows /= np.sqrt(values[-NUM_COMPONENTS:])[:, None]
        whole = cls(mean, rows, 1.0)
        return cls(mean, whole.rows, float(np.sqrt(whole.features(flat).var(0).sum())))

    def features(self, flat: Floats) -> Floats:
        """Return [n, components + 1]: the coordinates, and the distance from their span."""
        centred = flat - self.mean
        inside = centred @ self.rows.T
        outside = np.linalg.norm(centred - inside @ self.rows, axis=1, keepdims=True)
        scaled: Floats = np.concatenate([inside, outside], axis=1) / self.scale
        return scaled


@dataclass(frozen=True)
class Eye:
    """The fixed features, fitted on real clips that are neither trained on nor compared with."""

    frames: Basis
    clips: Basis
    changes: Basis

    @classmethod
    def fit(cls, videos: Floats, stills: Floats) -> "Eye":
        """Return the features of real videos and stills, each [n, 3, t, h, w]."""
        frames = np.concatenate([middle(videos), middle(stills)])
        return cls(
            Basis.fit(frames), Basis.fit(_flat(videos)), Basis.fit(_flat(np.diff(videos, axis=2)))
        )

    def fid(self, real: Floats, made: Floats) -> float:
        """Return the toy-FID of single frames [n, 3*h*w]."""
        return frechet(self.frames.features(real), self.frames.features(made))

    def fvd(self, real: Floats, made: Floats) -> float:
        """Return the toy-FVD of clips [n, 3, t, h, w]."""
        return frechet(self._moving(real), self._moving(made))

    def _moving(self, clips: Floats) -> Floats:
        parts = (
            self.clips.features(_flat(clips)),
            self.changes.features(_flat(np.diff(clips, axis=2))),
        )
        return np.concatenate(parts, axis=1)


def frechet(first: Floats, second: Floats) -> float:
    """Return the squared Fréchet distance of normal distributions fitted to rows [n, features].

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)   (Dowson and Landau, 1982)
    """
    gap = first.mean(0) - second.mean(0)
    one, two = np.cov(first.T), np.cov(second.T)
    root = _root(one)
    cross = np.linalg.eigvalsh(root @ two @ root)
    overlap = np.sqrt(np.clip(cross, 0, None)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(two) - 2 * overlap)


def flicker(clips: Floats) -> float:
    """Return the mean of |x[t+1] - 2 x[t] + x[t-1]| over clips [n, 3, t, h, w]: noise in time."""
    return float(np.abs(np.diff(clips, n=2, axis=2)).mean())


def judged(clips: Floats, shown: tuple[Attributes, ...]) -> dict[str, float]:
    """Return how often the project's judge sees the asked colour and direction in clips."""
    pixels = np.rint((clips.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    large = pixels.repeat(JUDGED_SCALE, axis=3).repeat(JUDGED_SCALE, axis=4)
    seen = [detect(one.transpose(1, 2, 3, 0)).attributes for one in large]
    rates = accuracy(zip(shown, seen, strict=True))
    return {name: rates[name].value for name in ("colour", "direction")}


def middle(clips: Floats) -> Floats:
    """Return the middle frame of each clip, flat [n, 3*h*w]."""
    return _flat(clips[:, :, clips.shape[2] // 2])


def _flat(values: Floats) -> Floats:
    return values.reshape(len(values), -1)


def _root(matrix: Floats) -> Floats:
    """Return the square root of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    return root
