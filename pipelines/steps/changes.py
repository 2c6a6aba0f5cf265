"""What changes from frame to frame, measured on thumbnails while a video is decoded.

Five numbers a frame are all that cutting into shots needs, so hours of video cost megabytes.
"""

import numpy as np
import numpy.typing as npt

from infra.stills import Frames

Rows = npt.NDArray[np.float32]

CHANGE, COLOUR, LIGHT, AHEAD, BACK = range(5)
"""Columns. CHANGE: mean difference of the pixels to the frame before, 0 to 1. COLOUR: shift of the
colour histogram since then, 0 to 1. LIGHT: mean brightness, 0 to 255. AHEAD: how far the most
similar of the next `NEAR` frames is from the frame before this one. BACK: how far this frame is
from the most similar of the `NEAR` frames before the frame before. Both are small around a
flash, since what was there comes back."""

NEAR = 5  # frames that a flash may last
_BINS = 32
_BLOCK = 64


class Changes:
    """Takes thumbnails one by one; gives a row for each, late by at most a block."""

    def __init__(self) -> None:
        """Begin before the first frame."""
        self._thumbs: list[Frames] = []
        self._num_old = 0  # thumbs at the front whose rows are out

    def add(self, thumb: Frames) -> Rows:
        """Take a thumbnail [h,w,3]; return the rows [n,5] that are known now, often none."""
        self._thumbs.append(thumb)
        if len(self._thumbs) - self._num_old < _BLOCK + NEAR:
            return np.empty((0, 5), np.float32)
        return self._rows(_BLOCK)

    def finish(self) -> Rows:
        """Return the rows of the last frames."""
        return self._rows(len(self._thumbs) - self._num_old)

    def _rows(self, number: int) -> Rows:
        if not number:
            return np.empty((0, 5), np.float32)
        rows = measured(np.stack(self._thumbs))[self._num_old : self._num_old + number]
        done = self._num_old + number
        kept = max(0, done - NEAR - 1)
        self._thumbs, self._num_old = self._thumbs[kept:], done - kept
        return rows


def measured(thumbs: Frames) -> Rows:
    """Return a row for each of the frames [T,h,w,3]; the first has no frame before it."""
    rows = np.zeros((len(thumbs), 5), np.float32)
    rows[:, AHEAD:] = 1.0
    if not len(thumbs):
        return rows
    rows[:, LIGHT] = thumbs.mean(axis=(1, 2, 3))
    if len(thumbs) < 2:
        return rows
    rows[1:, CHANGE] = _apart(thumbs[1:], thumbs[:-1])
    rows[1:, COLOUR] = np.abs(np.diff(_cumulative(thumbs), axis=0)).mean(axis=(1, 2))
    for gap in range(2, NEAR + 2):
        if len(thumbs) > gap:
            far = _apart(thumbs[gap:], thumbs[:-gap])
            ahead, back = rows[1 : len(thumbs) - gap + 1, AHEAD], rows[gap:, BACK]
            np.minimum(ahead, far, out=ahead)
            np.minimum(back, far, out=back)
    return rows


def _apart(left: Frames, right: Frames) -> npt.NDArray[np.float64]:
    low, high = np.minimum(left, right), np.maximum(left, right)
    distance: npt.NDArray[np.float64] = (high - low).mean(axis=(1, 2, 3)) / 255
    return distance


def _cumulative(thumbs: Frames) -> npt.NDArray[np.float64]:
    """Return the cumulative histogram of each channel of each frame, [T, 3, bins], 0 to 1."""
    num, pixels = len(thumbs), thumbs.shape[1] * thumbs.shape[2]
    bins = (thumbs.reshape(num, pixels, 3) // (256 // _BINS)).astype(np.int64)
    slots = bins + _BINS * (np.arange(num)[:, None, None] * 3 + np.arange(3))
    counts = np.bincount(slots.ravel(), minlength=num * 3 * _BINS).reshape(num, 3, _BINS)
    shares: npt.NDArray[np.float64] = np.cumsum(counts, axis=2) / pixels
    return shares
