"""One clip as training shows it: a span of frames at a framerate, cut and scaled.

A video is shown at one of the framerates that fit it, from a random start; an image is a video of
infinite framerate, one frame repeated. Only the frames that are shown are decoded, unless the whole
corpus fits into memory: then clips are decoded once. The pixels are the same either way.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from infra import excerpt
from infra.errors import DataError
from infra.excerpt import View
from infra.stills import Frames
from train.config import ReaderSettings

Row = Mapping[str, Any]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """The size of a training clip: frames, height and width in pixels."""

    frames: int
    height: int
    width: int

    def decoded_bytes(self, num_frames: int) -> int:
        """Return about what frames take in memory once they are scaled."""
        return num_frames * self.height * self.width * 3


@dataclass(frozen=True)
class Shown:
    """Frames [t, h, w, 3], how many of them make a second, and the size of their source."""

    frames: Frames
    fps: float
    source_hw: tuple[int, int]


@dataclass(frozen=True)
class _Decoded:
    """A whole clip: frames scaled and not yet cut, and their times in seconds."""

    frames: Frames
    times_s: Times
    source_hw: tuple[int, int]


class Media(Protocol):
    """Gives the encoded bytes of a clip."""

    def get(self, row: Row) -> bytes:
        """Return the bytes of the clip that a row of the release describes."""


class Decoder:
    """Turns rows of a release into frames."""

    def __init__(
        self, media: Media, settings: ReaderSettings, geometry: Geometry, keeps: bool
    ) -> None:
        """Decode nothing yet.

        Args:
            media: Where the bytes of clips come from.
            settings: Framerates, the kind of crop and the memory for decoded clips.
            geometry: The size of what is shown.
            keeps: Decode whole clips and keep them; for corpora that fit.
        """
        self._media, self._settings, self._geometry = media, settings, geometry
        self._keeps = keeps
        self._kept: OrderedDict[str, _Decoded] = OrderedDict()
        self._kept_bytes = 0

    def needs(self, row: Row) -> bool:
        """Return whether a clip's bytes are needed to show it."""
        return row["clip_id"] not in self._kept

    def shown(self, row: Row, seed: int) -> Shown:
        """Return a clip as a sample of that seed shows it.

        Raises:
            DataError: It cannot be read or has too few frames.
        """
        random = np.random.default_rng(seed)
        num_frames = self._geometry.frames
        if row["kind"] == "image":
            found = self._whole(row)
            frames = self._cut(found.frames, random)
            return Shown(frames.repeat(num_frames, axis=0), float("inf"), found.source_hw)
        if self._keeps:
            found = self._whole(row)
            chosen, fps = self._in_time(found.times_s, random)
            return Shown(self._cut(found.frames[chosen], random), fps, found.source_hw)
        with excerpt.opened(self._media.get(row), self._view(row)) as film:
            chosen, fps = self._in_time(film.times_s, random)
            frames = film.frames(chosen)
            return Shown(self._cut(frames, random), fps, film.shown_hw)

    def _in_time(
        self, times_s: Times, random: np.random.Generator
    ) -> tuple[excerpt.Numbers, float]:
        """Return which frames to show, and at which rate."""
        count = self._geometry.frames
        fps = framerate(times_s, count, self._settings.framerates, random)
        start = random.uniform(0.0, max(0.0, times_s[-1] - (count - 1) / fps))
        return excerpt.nearest(times_s, start + np.arange(count) / fps), fps

    def _cut(self, frames: Frames, random: np.random.Generator) -> Frames:
        """Return frames [n, h, w, 3] cut to the geometry: in the middle, or anywhere."""
        size = (self._geometry.height, self._geometry.width)
        spare = [have - want for have, want in zip(frames.shape[1:3], size, strict=True)]
        if self._settings.crop == "random":
            top, left = (int(random.integers(0, most + 1)) for most in spare)
        else:
            top, left = (most // 2 for most in spare)
        return frames[:, top : top + size[0], left : left + size[1]]

    def _view(self, row: Row) -> View:
        return View(self._geometry.height, self._geometry.width, row["crop"])

    def _whole(self, row: Row) -> _Decoded:
        key = row["clip_id"]
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        data = self._media.get(row)
        if row["kind"] == "image":
            pixels, source_hw = excerpt.still(data, self._view(row))
            found = _Decoded(pixels[None], np.zeros(1), source_hw)
        else:
            with excerpt.opened(data, self._view(row)) as film:
                frames = film.frames(np.arange(len(film.times_s)))
                found = _Decoded(frames, film.times_s, film.shown_hw)
        if self._keeps:
            self._keep(key, found)
        return found

    def _keep(self, key: str, found: _Decoded) -> None:
        self._kept[key] = found
        self._kept_bytes += found.frames.nbytes
        while self._kept_bytes > self._settings.cache_mib * 2**20:
            self._kept_bytes -= self._kept.popitem(last=False)[1].frames.nbytes


def framerate(
    times_s: Times, num_frames: int, ladder: tuple[float, ...], random: np.random.Generator
) -> float:
    """Return a rate that the clip has the frames and the length for.

    Raises:
        DataError: The clip has fewer frames than are to be shown.
    """
    if len(times_s) < num_frames:
        raise DataError(f"too short: {len(times_s)} frames, {num_frames} are shown")
    length_s = float(times_s[-1])
    native = (len(times_s) - 1) / length_s if length_s > 0 else float("inf")
    slack = 1e-3
    fitting = [
        fps
        for fps in ladder
        if fps <= native * (1 + slack) and (num_frames - 1) / fps <= length_s * (1 + slack)
    ]
    return float(random.choice(fitting)) if fitting else native
