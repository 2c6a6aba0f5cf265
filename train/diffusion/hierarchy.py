"""Long videos: which frames are made in which order, from few a second to many.

A network makes T frames at a time. A longer video is first made at a low framerate, clip after
clip, each beginning with the last frame of the one before; then the framerate is doubled level by
level, where every other frame is known from the level below (Snap Video, arXiv 2402.14797; the
way of arXiv 2204.03458). The frames of a level stand at positions 0, 1, 2, ... of its own timeline;
position p is position 2p one level up. Windows of T positions share one position with the next
window, so they begin at 0, T-1, 2(T-1), ...

    for level in plan(num_frames=61, fps=24, clip_frames=16, ladder=(24, 12, 6, 3)).levels:
        for window in level.windows: ...        # in this order

Plain numbers; what a window's known frames do to a walk is in `train.diffusion.guidance`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TOLERANCE = 1e-6
"""Relative difference up to which two framerates are the same."""


@dataclass(frozen=True)
class Window:
    """One pass of the network over neighbouring positions of one level.

    Attributes:
        level: Index of its level, 0 the slowest.
        positions: Where its frames stand on this level's timeline, ascending by 1.
        known: Position on the level below that each frame is known from, or None.
        carried: Whether frame 0 is also the last frame of the window before it on this level.
    """

    level: int
    positions: tuple[int, ...]
    known: tuple[int | None, ...]
    carried: bool


@dataclass(frozen=True)
class Level:
    """All frames at one framerate, which the network is told.

    The windows of the last level may reach beyond `num_frames`.
    """

    fps: float
    num_frames: int
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Plan:
    """The levels of one video in the order in which they are made; the last one is the video."""

    num_frames: int
    fps: float
    clip_frames: int
    levels: tuple[Level, ...]


def plan(num_frames: int, fps: float, clip_frames: int, ladder: Sequence[float]) -> Plan:
    """Return how a video of `num_frames` at `fps` is made from clips of `clip_frames`.

    There are as many levels as the ladder's lowest framerate allows and the slowest level can fill
    with a whole window. Each level has the windows that the level above needs and no more.

    Args:
        num_frames: Frames of the video, 1 or more.
        fps: Its framerate.
        clip_frames: Frames that the network makes at a time.
        ladder: Framerates that the network was trained at.

    Raises:
        ValueError: A number that no video has, or a framerate outside the ladder.
    """
    _check(num_frames, fps, clip_frames, ladder)
    stride, steps = clip_frames - 1, num_frames - 1
    top = 0
    while _reaches(fps / 2 ** (top + 1), min(ladder)) and stride * 2 ** (top + 1) <= steps:
        top += 1
    needed = max(1, math.ceil(steps / stride))
    levels = []
    for index in range(top + 1):
        below = 2 ** (top - index)
        windows = tuple(
            _window(index, clip_frames, start=stride * i) for i in range(math.ceil(needed / below))
        )
        made = stride * len(windows) + 1
        levels.append(Level(fps / below, num_frames if index == top else made, windows))
    return Plan(num_frames, fps, clip_frames, tuple(levels))


def _window(level: int, clip_frames: int, start: int) -> Window:
    positions = tuple(range(start, start + clip_frames))
    known = tuple(p // 2 if level > 0 and p % 2 == 0 else None for p in positions)
    return Window(level, positions, known, carried=start > 0)


def _reaches(fps: float, lowest: float) -> bool:
    return fps >= lowest * (1 - _TOLERANCE)


def _check(num_frames: int, fps: float, clip_frames: int, ladder: Sequence[float]) -> None:
    if num_frames < 1:
        raise ValueError(f"a video needs at least 1 frame, got {num_frames}")
    if clip_frames < 2:
        raise ValueError(f"windows share a frame, so a clip needs at least 2, got {clip_frames}")
    if not ladder or not all(0 < rate < math.inf for rate in ladder):
        raise ValueError(f"a ladder needs framerates above 0, got {list(ladder)}")
    low, high = min(ladder), max(ladder)
    if not (_reaches(fps, low) and _reaches(high, fps)):
        raise ValueError(
            f"the framerate must be between {low:g} and {high:g} per second, which the model was "
            f"trained at; got {fps:g}"
        )
