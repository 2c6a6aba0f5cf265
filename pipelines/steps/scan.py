"""Decode a source once and say what it holds, or why it is refused.

Headers lie, so frames are counted, times are read from frames, and damage is looked for in every
frame. What later steps need of the pixels is kept as thumbnails.
"""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.stills import Frames, Header, Limits, VideoError, is_image, load_image, probe_image
from infra.video import decoded, header_of, opened

THUMB_PX = 16


@dataclass(frozen=True)
class Scan:
    """What a source holds; times are in units of `header.time_base` from the first shown frame."""

    header: Header
    first_pts: int
    """Where the first shown frame lies on the stream's own clock."""
    pts: list[int]
    end_pts: int
    keyframes: list[int]
    """Indices of frames that decode on their own."""
    num_skipped: int
    """Frames before the first keyframe, which cannot be decoded."""
    thumbs: Frames
    """RGB [T, THUMB_PX, THUMB_PX, 3]."""

    @property
    def num_frames(self) -> int:
        """Counted frames."""
        return len(self.pts)

    @property
    def is_vfr(self) -> bool:
        """Whether the time between frames varies by more than rounding (and 2 %)."""
        gaps = np.diff(self.pts)
        return len(gaps) > 1 and bool(gaps.max() - gaps.min() > max(2, 0.02 * gaps.max()))

    def seconds(self, pts: int) -> float:
        """Return a time in seconds."""
        return float(pts * self.header.time_base)


def scan(data: bytes, limits: Limits) -> Scan:
    """Return what a video or image holds.

    Raises:
        VideoError: It is broken, beyond the limits, or of a kind that is refused (HDR and
            interlaced video need tone mapping and deinterlacing).
    """
    if is_image(data[:16]):
        header = probe_image(data, limits)
        image = Image.fromarray(load_image(data, limits)).resize((THUMB_PX, THUMB_PX))
        return Scan(header, 0, [0], 0, [0], 0, np.asarray(image, np.uint8)[None])
    found = _scan_video(data, limits)
    _check_policy(found.header)
    return found


def perceptual_hash(thumb: Frames) -> str:
    """Return 64 bits, in hexadecimal, that differ little between similar pictures.

    The signs of the lowest 8x8 cosine coefficients of the brightness against their median.
    """
    grey = thumb.astype(np.float64).mean(axis=2)
    index = np.arange(THUMB_PX)
    basis = np.cos(np.pi * (2 * index[None] + 1) * index[:8, None] / (2 * THUMB_PX))
    low = (basis @ grey @ basis.T).round(3).ravel()
    bits = low > np.median(low)
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def _scan_video(data: bytes, limits: Limits) -> Scan:
    pts: list[int] = []
    keyframes: list[int] = []
    thumbs: list[Frames] = []
    header: Header | None = None
    damaged, last_gap = -1, 0
    with opened(data, limits) as (container, stream):
        skipped = 0
        for frame in decoded(container, stream):
            if header is None:
                header = header_of(container, stream, frame)
                skipped = _frames_before(frame, stream)
            _check_frame(frame, header)
            if frame.is_corrupt and damaged < 0:
                damaged = len(pts)
            if frame.key_frame:
                keyframes.append(len(pts))
            pts.append(_pts(frame, header, len(pts)))
            thumbs.append(_thumb(frame))
            last_gap = frame.duration or last_gap
    if header is None:
        raise VideoError("no_frames", "no frame could be decoded")
    _check_times(pts, header)
    gap = round(float(np.median(np.diff(pts)))) if len(pts) > 1 else last_gap
    shown = [value - pts[0] for value in pts]
    end_pts = shown[-1] + max(1, gap)
    found = Scan(header, pts[0], shown, end_pts, keyframes, skipped, np.stack(thumbs))
    _check_end(found, damaged)
    return found


def _check_frame(frame: av.VideoFrame, header: Header) -> None:
    if (frame.width, frame.height) != (header.coded_width, header.coded_height):
        raise VideoError("size_changes", f"to {frame.width} x {frame.height} px inside the stream")


def _check_times(pts: list[int], header: Header) -> None:
    if any(later <= earlier for earlier, later in itertools.pairwise(pts)):
        raise VideoError("bad_timestamps", "frame times do not increase")
    if header.width < 1 or header.height < 1 or header.time_base <= 0:
        raise VideoError("corrupt", "the header's size or clock is not positive")


def _check_end(found: Scan, damaged: int) -> None:
    """Refuse what ends before its header says (cut off), or holds damaged frames."""
    declared_s = found.header.duration_s
    if not math.isfinite(declared_s):
        raise VideoError("corrupt", "the declared duration is no number")
    missing_s = declared_s - found.seconds(found.end_pts)
    frame_s = found.seconds(found.end_pts) / found.num_frames
    if found.num_skipped == 0 and missing_s > max(3 * frame_s, 0.05 * declared_s):
        raise VideoError(
            "truncated", f"ends {missing_s:.2f} s before the {declared_s:.2f} s that it declares"
        )
    if damaged >= 0:
        raise VideoError("corrupt", f"frame {damaged} is damaged")


def _check_policy(header: Header) -> None:
    if header.is_hdr:
        raise VideoError("hdr", f"transfer characteristic {header.color_trc} needs tone mapping")
    if header.interlaced:
        raise VideoError("interlaced", "interlaced video needs deinterlacing")


def _frames_before(frame: av.VideoFrame, stream: av.VideoStream) -> int:
    """Return about how many frames lie before the first keyframe."""
    start = stream.start_time
    if frame.pts is None or start is None or not frame.duration:
        return 0
    return max(0, round((frame.pts - start) / frame.duration))


def _pts(frame: av.VideoFrame, header: Header, index: int) -> int:
    if frame.pts is not None:
        return int(frame.pts)
    rate = header.fps or Fraction(25)
    return round(index / rate / header.time_base)


def _thumb(frame: av.VideoFrame) -> Frames:
    small = frame.reformat(THUMB_PX, THUMB_PX, "rgb24", interpolation="AREA")
    turned: npt.NDArray[np.uint8] = np.rot90(small.to_ndarray(), round(frame.rotation / 90) % 4)
    return turned
