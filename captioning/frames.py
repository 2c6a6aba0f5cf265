"""Which frames of a clip a model sees, and how they travel to it through Ray Data."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from captioning.config import FrameSettings
from infra import video
from infra.errors import DataError
from infra.stills import Frames
from infra.store.media import read_media

Batch = dict[str, np.ndarray[Any, Any]]

log = logging.getLogger(__name__)


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


def show(row: dict[str, Any], root: str, settings: FrameSettings) -> dict[str, Any]:
    """Return a clip's `frames` and `shape`, or the `error` why there are none.

    Args:
        row: Of the clips table; what identifies the clip (`clip_id`, `media_sha256`) is kept.
        root: The dataset's.
        settings: Which frames.
    """
    kept = {"clip_id": row["clip_id"], "media_sha256": row["media_sha256"]}
    try:
        frames = load(read_media(root, row), settings)
    except DataError as fault:
        log.warning("clip cannot be shown clip=%s fault=%s", row["clip_id"], fault)
        return kept | {"frames": b"", "shape": [0, 0, 0, 0], "error": str(fault)}
    return kept | {"frames": frames.tobytes(), "shape": list(frames.shape), "error": ""}


def frames_of(batch: Batch, index: int) -> Frames:
    """Return the frames [F,H,W,3] of one row that `show` gave."""
    shape = [int(size) for size in batch["shape"][index]]
    return np.frombuffer(batch["frames"][index], np.uint8).reshape(shape)
