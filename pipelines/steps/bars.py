"""Find black bars: lines at the edges that stay black in every frame that is looked at.

A line is black when no stretch of it is bright in any sample, so a dark scene makes no bar as
long as one sample is lit there, and a subtitle inside a bar keeps the lines it is written on (the
bar ends below it). The picture must begin at a visible edge and be lit somewhere, or all that is
dark would be cut away.
"""

import math
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from infra.stills import Crop
from infra.video import displayed_size

_SAMPLES = 24  # frames looked at, spread over the source
_BLACK = 28  # of 255: compressed black reaches this
_LIT = 60  # of 255: somewhere the picture must reach this
_EDGE = 6.0  # levels by which the picture begins brighter than the bar, which varies less
_BLEEDING = 2  # lines of a bar that compression mixes with the picture
_MIN_SHARE = 0.02  # of the side: narrower bars are left alone
_MIN_KEPT = 0.4  # of the side: what is left must be more
_STRETCH_PX = 8  # pixels averaged along a line, so that single pixels of noise count little

Profile = npt.NDArray[np.float32]


class Bars:
    """Looks at frames of one source as they come, fewer and fewer of them."""

    def __init__(self) -> None:
        """Begin before the first frame."""
        self._converter = VideoReformatter()
        self._brightest: list[Profile] = []  # of each row, of each column, over all samples
        self._means: list[Profile] = []
        self._turn = self._num_seen = self._num_used = 0
        self._stride = 1
        self._size = (0, 0)

    def add(self, frame: av.VideoFrame, sar: Fraction = Fraction(1)) -> None:
        """Look at a frame, or pass it by: every n-th counts, n growing with the video."""
        self._num_seen += 1
        if (self._num_seen - 1) % self._stride:
            return
        if self._num_used and self._num_used % _SAMPLES == 0:
            self._stride *= 2
        self._num_used += 1
        grey = self._converter.reformat(frame, format="gray", dst_color_range="JPEG", threads=1)
        pixels = grey.to_ndarray().astype(np.float32)
        self._turn = round(frame.rotation / 90) % 4
        self._size = displayed_size(frame, sar)
        self._keep(pixels)

    def _keep(self, pixels: npt.NDArray[np.float32]) -> None:
        rows, columns = _brightest(pixels), _brightest(pixels.T)
        means = [pixels.mean(axis=1), pixels.mean(axis=0)]
        if not self._brightest:
            self._brightest, self._means = [rows, columns], means
            return
        for old, new in zip(self._brightest, (rows, columns), strict=True):
            np.maximum(old, new, out=old)
        for old, new in zip(self._means, means, strict=True):
            np.maximum(old, new, out=old)

    def box(self) -> Crop:
        """Return the box inside the bars in displayed pixels, with even sides; all without bars."""
        width, height = self._size
        whole = Crop(0, 0, width, height)
        if not self._brightest or max(float(p.max()) for p in self._brightest) < _LIT:
            return whole
        top, bottom = _inside(self._brightest[0], self._means[0])
        left, right = _inside(self._brightest[1], self._means[1])
        edges = [top, right, bottom, left]
        edges = edges[self._turn :] + edges[: self._turn]  # turning takes the right to the top
        lines, columns = len(self._brightest[0]), len(self._brightest[1])
        per_line, per_column = height / lines, width / columns
        if self._turn % 2:
            per_line, per_column = height / columns, width / lines
        y, x = _up(edges[0] * per_line), _up(edges[3] * per_column)
        w = _down(width - edges[1] * per_column) - x
        h = _down(height - edges[2] * per_line) - y
        found = any(edges) and w > 0 and h > 0
        return Crop(x, y, w, h) if found else whole


def _inside(brightest: Profile, means: Profile) -> tuple[int, int]:
    """Return how many lines at the start and at the end are bars."""
    lit = np.flatnonzero(brightest > _BLACK)
    if not len(lit):
        return 0, 0
    first, after = int(lit[0]), len(brightest) - 1 - int(lit[-1])
    if len(brightest) - first - after < _MIN_KEPT * len(brightest):
        return 0, 0
    return _edge(first, means), _edge(after, means[::-1])


def _edge(lines: int, means: Profile) -> int:
    """Return the number of lines of a bar, or 0 where no picture begins behind them."""
    if lines < max(2, _MIN_SHARE * len(means)):
        return 0
    bar, behind = means[: max(1, lines - _BLEEDING)], means[lines + 1 : lines + 4]
    step = float(behind.mean() - bar.mean()) if len(behind) else 0.0
    return lines if step >= _EDGE and float(np.ptp(bar)) < _EDGE else 0


def _brightest(pixels: npt.NDArray[np.float32]) -> Profile:
    """Return the brightest stretch of each line."""
    lines, length = pixels.shape
    stretch = min(_STRETCH_PX, length)
    whole = pixels[:, : length // stretch * stretch].reshape(lines, -1, stretch)
    brightest: Profile = whole.mean(axis=2).max(axis=1)
    return brightest


def _up(position: float) -> int:
    return math.ceil(position / 2 - 1e-6) * 2


def _down(position: float) -> int:
    return math.floor(position / 2 + 1e-6) * 2
