"""How much of a picture lies under text, without a model.

Letters are small spots of even stroke that differ from what is around them and stand in a row:
spots come from a local threshold, in either polarity; those of a letter's shape are joined with
neighbours of like height on the same line; a row of four and more of like stroke, with little
right above and below it, is text. It is made for titles, subtitles and watermarks, not for words
on a thing in the scene; scripts whose letters hang together in words are found less well.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]

_CONTRAST = 40  # grey levels between a letter and what is around it
_AROUND_PX = 31
_MIN_HEIGHT_PX = 6
_MAX_HEIGHT = 0.2  # of the picture
_MIN_LETTERS = 4
_MAX_AROUND = 0.4  # spots right above and below a line, for each of its own
_MAX_SPOTS, _MAX_LETTERS = 5000, 2000  # foliage and noise give more; then nothing is called text


@dataclass(frozen=True)
class _Spots:
    """Connected spots of a picture, from left to right: their boxes and stroke widths."""

    left: npt.NDArray[np.float64]
    top: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    stroke: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.left)


def text_share(grey: Grey) -> float:
    """Return the share of a picture [H,W] that lies under lines of text."""
    covered = np.zeros(grey.shape, np.bool_)
    for left, top, right, bottom in text_boxes(grey):
        covered[top:bottom, left:right] = True
    return float(covered.mean())


def text_boxes(grey: Grey) -> list[tuple[int, int, int, int]]:
    """Return the lines of text as (left, top, right, bottom), right and bottom exclusive."""
    around = cv2.blur(grey, (_AROUND_PX, _AROUND_PX)).astype(np.int16)
    above = grey.astype(np.int16) - around
    found = []
    for letters in (above > _CONTRAST, above < -_CONTRAST):
        spots = _spots(letters)
        found += [_box(spots, line) for line in _lines(spots) if _is_text(spots, line)]
    return found


def _spots(letters: npt.NDArray[np.bool_]) -> _Spots:
    mask = letters.astype(np.uint8)
    num, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    left, top, width, height, area = (stats[1:, column].astype(np.float64) for column in range(5))
    fill = area / np.maximum(width * height, 1)
    tallest = _MAX_HEIGHT * mask.shape[0]
    kept = (height >= _MIN_HEIGHT_PX) & (height <= tallest) & (width <= 3 * height)
    kept &= (fill > 0.12) & ((fill < 0.9) | (width < 0.45 * height)) & (width >= 1)
    if num > _MAX_SPOTS or kept.sum() > _MAX_LETTERS:
        kept[:] = False
    chosen = np.flatnonzero(kept)[np.argsort(left[kept], kind="stable")]
    stroke = _strokes(mask, np.asarray(labels, np.int32), num)[chosen]
    return _Spots(left[chosen], top[chosen], width[chosen], height[chosen], stroke)


def _strokes(mask: Grey, labels: npt.NDArray[np.int32], num: int) -> npt.NDArray[np.float64]:
    """Return the greatest width of each spot, background not among them."""
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest, filled = np.zeros(num, np.float32), mask > 0
    np.maximum.at(deepest, labels[filled], depth[filled])
    return 2.0 * deepest[1:].astype(np.float64)


def _lines(spots: _Spots) -> list[npt.NDArray[np.int64]]:
    """Return groups of spots that stand in a row, as indices."""
    group = np.arange(len(spots))
    reach = spots.left + spots.width + 1.5 * spots.height
    ends = np.searchsorted(spots.left, reach, side="right")
    for first in range(len(spots)):
        others = np.arange(first + 1, ends[first])
        for second in others[_side_by_side(spots, first, others)]:
            if group[second] != group[first]:
                group[group == group[second]] = group[first]
    return [np.flatnonzero(group == name) for name in np.unique(group)]


def _side_by_side(spots: _Spots, one: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which spots could be letters of the same line as one: like height, on one level."""
    height, bottom = spots.height[one], spots.top[one] + spots.height[one]
    low, high = np.minimum(height, spots.height[others]), np.maximum(height, spots.height[others])
    shared = np.minimum(bottom, spots.top[others] + spots.height[others])
    shared = shared - np.maximum(spots.top[one], spots.top[others])
    apart = spots.left[others] >= spots.left[one] + 0.3 * spots.width[one]
    found: npt.NDArray[np.bool_] = (high <= 2.0 * low) & (shared >= 0.6 * low) & apart
    return found


def _is_text(spots: _Spots, line: npt.NDArray[np.int64]) -> bool:
    """Return whether a row has letters enough, of even stroke, thin for their height."""
    if len(line) < _MIN_LETTERS:
        return False
    stroke, height, width = spots.stroke[line], spots.height[line], spots.width[line]
    even = stroke.std() <= 0.35 * stroke.mean()
    thin = 0.04 <= float(np.median(stroke / height)) <= 0.5
    long = _extent(spots, line) >= 2.5 * float(height.max())
    level = float((spots.top[line] + height).std()) <= 0.25 * float(height.mean())
    varied = float(width.std()) >= 0.08 * float(width.mean())  # a fence has bars all alike
    return bool(even and thin and long and level and varied) and _stands_free(spots, line)


def _stands_free(spots: _Spots, line: npt.NDArray[np.int64]) -> bool:
    """Return whether few spots lie right above and below: texture goes on there, a line ends."""
    left, top, right, bottom = _box(spots, line)
    band = (bottom - top) / 2
    across, down = spots.left + spots.width / 2, spots.top + spots.height / 2
    near = (across >= left) & (across < right) & (down >= top - band) & (down < bottom + band)
    near &= spots.height >= 0.4 * float(np.median(spots.height[line]))
    near[line] = False
    return int(near.sum()) <= _MAX_AROUND * len(line)


def _extent(spots: _Spots, line: npt.NDArray[np.int64]) -> float:
    return float((spots.left[line] + spots.width[line]).max() - spots.left[line].min())


def _box(spots: _Spots, line: npt.NDArray[np.int64]) -> tuple[int, int, int, int]:
    return (
        int(spots.left[line].min()),
        int(spots.top[line].min()),
        int((spots.left[line] + spots.width[line]).max()),
        int((spots.top[line] + spots.height[line]).max()),
    )
