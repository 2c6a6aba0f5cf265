"""Find where shots begin and lay the spans that become clips.

A hard cut changes the colours of the whole picture at once. Motion does not: it moves colours
about, so the histogram stays. A frame starts a shot when its histogram is far from the one before
(mean distance of the cumulative histograms, so that a small drift of brightness counts little),
the pixels change several times more than around it (so a pan or a fade is no cut), and what was
there does not come back within five frames (so a flash is none). A shot also starts where a
picture comes back from black; that detector is PySceneDetect's.

The README of this folder has the table that this was chosen by, against PySceneDetect's others.

Borders and windows are laid while frames come in, so that clips can be encoded in the pass that
decodes them; a finished scan goes through the same code.
"""

import bisect
from collections.abc import Sequence

import numpy as np
from scenedetect.common import FrameTimecode  # type: ignore[import-untyped]  # it has no types
from scenedetect.detectors import ThresholdDetector  # type: ignore[import-untyped]  # as above

from infra.stills import Header
from pipelines.ingest_config import CutSettings
from pipelines.steps.changes import AHEAD, BACK, CHANGE, COLOUR, LIGHT, Rows
from pipelines.steps.found import Scan
from pipelines.steps.found import Span as Span

_AROUND = 5  # frames on either side that motion is measured over
_MIN_PIXEL_CHANGE = 0.03  # of the full range: below it nothing has visibly changed
_MIN_SEEN_APART = 0.06  # the same between keyframes, which lie seconds apart
_COMES_BACK = 0.5  # of the change: nearer than this to the picture before, it was a flash
_MIN_FADE_FRAMES = 8  # between two shots that begin at a fade
_ROUNDING = 1e-6


def spans(found: Scan, settings: CutSettings) -> list[Span]:
    """Return the clips of a source, in order and without gaps: shots, long ones in windows."""
    if found.made is not None and found.header.kind == "video":
        return found.made.spans
    by_packets = found.validated_by == "packets"
    keyframes = found.keyframes if settings.encode == "auto" else []
    plan = plan_for(found.header, settings, keyframes, only_keyframes=by_packets)
    borders = _seen_cuts(found, settings) if by_packets else cuts(found.changes, settings)
    laid = plan.add(found.pts, borders, found.num_frames)
    return laid + plan.finish(found.end_pts)


def plan_for(
    header: Header,
    settings: CutSettings,
    keyframes: Sequence[int] = (),
    *,
    only_keyframes: bool = False,
) -> "Plan":
    """Return the plan of a source's clips, to be fed."""
    window = settings.window_s / float(header.time_base) * (1 + _ROUNDING)
    return Plan(window, keyframes, only_keyframes=only_keyframes)


def cuts(changes: Rows, settings: CutSettings) -> list[int]:
    """Return the frames at which a new shot starts, the first frame not among them."""
    borders = Borders(settings)
    return borders.add(changes) + borders.finish()


class Borders:
    """Takes rows of changes as they come and tells where shots begin, a few frames later."""

    def __init__(self, settings: CutSettings) -> None:
        """Begin before the first frame."""
        self._settings = settings
        self._rows: list[list[float]] = []
        self._first = 0  # frame of the first row that is kept
        self.num_decided = 0
        """Frames of which it is known whether a shot begins there."""
        self._fades = ThresholdDetector(
            settings.fade_level, min_scene_len=_MIN_FADE_FRAMES, fade_bias=1.0, min_out_length=2
        )

    def add(self, rows: Rows) -> list[int]:
        """Take rows; return the borders among the frames that are decided now."""
        self._rows += rows.tolist()
        return self._decided(self._first + len(self._rows) - _AROUND)

    def finish(self) -> list[int]:
        """Return the borders among the last frames."""
        return self._decided(self._first + len(self._rows))

    def _decided(self, end: int) -> list[int]:
        found = []
        for index in range(self.num_decided, end):
            fades = self._fades_in(index)
            if index and (fades or self._is_cut(index - self._first)):
                found.append(index)
            self.num_decided = index + 1
        spare = max(0, self.num_decided - _AROUND - self._first)
        del self._rows[:spare]
        self._first += spare
        return found

    def _is_cut(self, at: int) -> bool:
        row, settings = self._rows[at], self._settings
        if row[COLOUR] < settings.shot_change or row[CHANGE] < _MIN_PIXEL_CHANGE:
            return False
        near = self._rows[max(0, at - _AROUND) : at] + self._rows[at + 1 : at + 1 + _AROUND]
        motion = float(np.median([other[CHANGE] for other in near])) if near else 0.0
        comes_back = min(row[AHEAD], row[BACK]) < _COMES_BACK * row[CHANGE]
        return row[CHANGE] >= settings.shot_contrast * motion and not comes_back

    def _fades_in(self, index: int) -> bool:
        if not self._settings.fade_level:
            return False
        light = np.array([self._rows[index - self._first][LIGHT]])
        return bool(self._fades.process_frame(FrameTimecode(index, fps=1.0), light))


class Plan:
    """Lays windows over shots while frames come in.

    A window ends at the last keyframe in its second half, where `keyframes` are given, since
    packets can be copied up to there; else after exactly its length. What is left of a shot,
    less than two windows, is split evenly, so no clip is much shorter than the others.
    """

    def __init__(
        self, window: float, keyframes: Sequence[int] = (), *, only_keyframes: bool = False
    ) -> None:
        """Lay windows of a length in units of the frames' times.

        Args:
            window: Longest clip.
            keyframes: Frames that decode on their own, ascending.
            only_keyframes: No window may begin elsewhere, even if it gets longer.
        """
        self._window, self._keyframes, self._only = window, keyframes, only_keyframes
        self._shot = self._start = self._num_seen = 0
        self._pts: Sequence[int] = ()

    def add(self, pts: Sequence[int], borders: Sequence[int], num_decided: int) -> list[Span]:
        """Return the spans that are certain now.

        Args:
            pts: Times of all frames so far, ascending; the same list with more each time.
            borders: Frames at which shots begin, beyond those told before.
            num_decided: Frames of which it is known whether a shot begins there.
        """
        self._pts = pts
        laid: list[Span] = []
        for border in borders:
            laid += self._closed(border, pts[border])
        while self._start < num_decided:
            if pts[num_decided - 1] - pts[self._start] <= 2 * self._window:
                break
            laid.append(self._window_from(self._start, num_decided))
        self._num_seen = num_decided
        return laid

    def finish(self, end_pts: int) -> list[Span]:
        """Return the last spans."""
        return self._closed(self._num_seen, end_pts)

    def _closed(self, end: int, end_pts: int) -> list[Span]:
        """Return the spans from where the last one ended to the end of the shot."""
        laid = []
        while self._start < end and end_pts - self._pts[self._start] > 2 * self._window:
            laid.append(self._window_from(self._start, end))
        if self._start < end and end_pts - self._pts[self._start] > self._window:
            middle = self._middle(self._start, end, end_pts)
            if self._start < middle < end:
                laid.append(self._span(middle))
        if self._start < end:
            laid.append(self._span(end))
        self._shot += 1
        return laid

    def _window_from(self, start: int, end: int) -> Span:
        stop = self._pts[start] + self._window
        exact = max(start + 1, bisect.bisect_right(self._pts, stop, start, end))
        if self._pts[exact - 1] - self._pts[start] > self._window / (1 + 2 * _ROUNDING):
            exact = max(start + 1, exact - 1)  # a frame exactly at the end begins the next window
        return self._span(self._keyframe(start, exact, end) or exact)

    def _keyframe(self, start: int, exact: int, end: int) -> int | None:
        """Return the last keyframe in (start, exact] that the window may end at."""
        at = bisect.bisect_right(self._keyframes, exact)
        half = self._pts[start] + (0 if self._only else self._window / 2)
        if at and self._keyframes[at - 1] > start and self._pts[self._keyframes[at - 1]] >= half:
            return self._keyframes[at - 1]
        if self._only:
            return self._keyframes[at] if at < len(self._keyframes) else end
        return None

    def _middle(self, start: int, end: int, end_pts: int) -> int:
        """Return where the rest of a shot is split in two, neither longer than a window."""
        centre = (self._pts[start] + end_pts) / 2
        exact = bisect.bisect_left(self._pts, centre, start, end)
        low, high = end_pts - self._window, self._pts[start] + self._window
        held = self._keyframes[
            bisect.bisect_right(self._keyframes, start) : bisect.bisect_left(self._keyframes, end)
        ]
        fits = [at for at in held if self._only or low <= self._pts[at] <= high]
        if fits:
            return min(fits, key=lambda at: abs(self._pts[at] - centre))
        return end if self._only else exact

    def _span(self, end: int) -> Span:
        span = Span(self._shot, self._start, end)
        self._start = end
        return span


def _seen_cuts(found: Scan, settings: CutSettings) -> list[int]:
    """Return keyframes that differ from the last one that was decoded, as after a cut."""
    apart = (found.changes[:, COLOUR] >= settings.shot_change) & (
        found.changes[:, CHANGE] >= _MIN_SEEN_APART
    )
    return [at for at, cut in zip(found.thumb_frames, apart.tolist(), strict=True) if cut and at]
