"""Find hard cuts and lay the spans that become clips.

A cut changes the colours of the whole picture at once. Motion does not: it moves colours about,
so the histogram stays. A frame starts a shot when its histogram is far from the one before (mean
distance of the cumulative histograms, so that a small drift of brightness counts little) and the
pixels change several times more than around it (so a pan or a fade is no cut).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.stills import Frames
from pipelines.ingest_config import CutSettings
from pipelines.steps.scan import Scan

_BINS = 32
_AROUND = 5  # frames on either side that motion is measured over
_MIN_PIXEL_CHANGE = 0.03  # of the full range: below it nothing has visibly changed


@dataclass(frozen=True)
class Span:
    """Frames [start, end) of a source: one clip."""

    shot_index: int
    start: int
    end: int


def spans(found: Scan, settings: CutSettings) -> list[Span]:
    """Return the clips of a source, in order and without gaps: shots, long ones split evenly."""
    borders = [0, *cuts(found.thumbs, settings), found.num_frames]
    laid = []
    for shot, (start, end) in enumerate(itertools.pairwise(borders)):
        stop = found.pts[end] if end < found.num_frames else found.end_pts
        length_s = found.seconds(stop - found.pts[start])
        parts = max(1, math.ceil(length_s / settings.window_s - 1e-6))
        edges = np.linspace(start, end, min(parts, end - start) + 1).round().astype(int).tolist()
        laid += [Span(shot, a, b) for a, b in itertools.pairwise(edges)]
    return laid


def cuts(thumbs: Frames, settings: CutSettings) -> list[int]:
    """Return the frames at which a new shot starts, the first frame not among them.

    Args:
        thumbs: RGB [T, h, w, 3].
        settings: Thresholds.
    """
    if len(thumbs) < 2:
        return []
    values = thumbs.astype(np.int16)
    pixels = np.abs(np.diff(values, axis=0)).mean(axis=(1, 2, 3)) / 255
    colours = np.abs(np.diff(_cumulative(thumbs), axis=0)).mean(axis=(1, 2))
    found = []
    for index, change in enumerate(pixels):
        near = np.concatenate(
            [pixels[max(0, index - _AROUND) : index], pixels[index + 1 : index + 1 + _AROUND]]
        )
        motion = float(np.median(near)) if near.size else 0.0
        alone = change >= max(_MIN_PIXEL_CHANGE, settings.shot_contrast * motion)
        if alone and colours[index] >= settings.shot_change:
            found.append(index + 1)
    return found


def _cumulative(thumbs: Frames) -> npt.NDArray[np.float64]:
    """Return the cumulative histogram of each channel of each frame, [T, 3, bins], 0 to 1."""
    num, pixels = len(thumbs), thumbs.shape[1] * thumbs.shape[2]
    bins = (thumbs.reshape(num, pixels, 3) // (256 // _BINS)).astype(np.int64)
    slots = bins + _BINS * (np.arange(num)[:, None, None] * 3 + np.arange(3))
    counts = np.bincount(slots.ravel(), minlength=num * 3 * _BINS).reshape(num, 3, _BINS)
    shares: npt.NDArray[np.float64] = np.cumsum(counts, axis=2) / pixels
    return shares
