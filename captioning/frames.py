"""Which frames of a clip a captioner sees."""

import numpy as np
import numpy.typing as npt

from captioning.config import FrameSettings
from infra import video

Frames = npt.NDArray[np.uint8]


def load(data: bytes, settings: FrameSettings) -> Frames:
    """Return frames [F,H,W,3] of an encoded clip: evenly spaced in time, or one of a still.

    Raises:
        VideoError: The clip cannot be decoded.
    """
    clip = video.decode(data, max_side=settings.max_side_px)
    return clip.frames[even(clip.pts_s, settings.num_frames)]


def even(pts_s: npt.NDArray[np.float64], num_frames: int) -> npt.NDArray[np.int64]:
    """Return which frames lie nearest to evenly spaced times; fewer where there are fewer.

    Args:
        pts_s: When each frame is shown, seconds, ascending from 0.
        num_frames: How many are wanted.
    """
    if len(pts_s) <= num_frames:
        return np.arange(len(pts_s))
    wanted_s = np.linspace(0.0, pts_s[-1], num_frames)
    nearest: npt.NDArray[np.int64] = np.abs(pts_s[None, :] - wanted_s[:, None]).argmin(axis=1)
    return nearest


def fit_count(frames: Frames, num_frames: int) -> Frames:
    """Return exactly `num_frames` frames, for models of a fixed length: spread or repeated."""
    indices = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
    spread: Frames = frames[indices]
    return spread
