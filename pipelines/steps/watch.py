"""Watch a source being decoded: count frames, read times, keep thumbnails, look for damage.

Headers lie, so what counts is what the frames say.
"""

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import av
import av.container
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from infra import tone
from infra.stills import Crop, Frames, Header, Limits, VideoError
from infra.video import header_of
from pipelines.ingest_config import AcceptSettings
from pipelines.steps.bars import Bars
from pipelines.steps.changes import Changes, Rows
from pipelines.steps.found import THUMB_PX, EncodedClips, Scan

_MAX_THUMBS = 1 << 16  # 48 MiB; of a longer source every second, fourth, ... is kept
_TAGS = ("title", "description", "comment", "synopsis", "subtitle")


class Thumbs:
    """Shrinks the frames of one stream to thumbnails, upright."""

    def __init__(self) -> None:
        """Begin with a converter that is set up once."""
        self._converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Frames:
        """Return a frame as RGB [THUMB_PX, THUMB_PX, 3]."""
        hdr = frame.color_trc in (tone.PQ, tone.HLG)
        small = self._converter.reformat(
            frame,
            THUMB_PX,
            THUMB_PX,
            "rgb48le" if hdr else "rgb24",
            interpolation="AREA",
            threads=1,
        ).to_ndarray()
        if hdr:
            small = tone.mapped(small.astype(np.uint16, copy=False), frame.color_trc)
        pixels: Frames = small.astype(np.uint8, copy=False)
        turned: npt.NDArray[np.uint8] = np.rot90(pixels, round(frame.rotation / 90) % 4)
        return turned


class Watch:
    """Collects what a `Scan` holds from frames that are handed in one by one."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        accept: AcceptSettings,
        *,
        find_bars: bool = True,
    ) -> None:
        """Begin before the first frame of a stream."""
        self.header: Header | None = None
        """Known from the first frame on."""
        self.pts: list[int] = []
        """Times on the stream's own clock."""
        self._container, self._stream, self._accept = container, stream, accept
        self._keyframes: list[int] = []
        self._thumbs: list[Frames] = []
        self._stride = 1
        self._rows: list[Rows] = []
        self._changes, self._thumb = Changes(), Thumbs()
        self._bars = Bars() if find_bars else None
        self._num_skipped, self._damaged, self._last_gap = 0, -1, 0
        self._interlaced = False
        self._limits: Limits = accept.limits()

    def add(self, frame: av.VideoFrame) -> Rows:
        """Take a frame; return the rows of changes [n,5] that are known now."""
        if self.header is None:
            self.header = header_of(self._container, self._stream, frame)
            check_policy(self.header, self._accept)
            self._num_skipped = _frames_before(frame, self._stream)
        self._check(frame, self.header)
        index = len(self.pts)
        if frame.key_frame or not index:
            self._keyframes.append(index)
        shown = _pts(frame, self.header, index)
        if self.pts and shown <= self.pts[-1]:
            raise VideoError("bad_timestamps", "frame times do not increase")
        self.pts.append(shown)
        self._last_gap = frame.duration or self._last_gap
        if self._bars:
            self._bars.add(frame, self.header.sar)
        thumb = self._thumb(frame)
        self._keep(thumb, index)
        rows = self._changes.add(thumb)
        self._rows.append(rows)
        return rows

    def finish(self) -> Rows:
        """Return the last rows of changes, after the last frame."""
        rows = self._changes.finish()
        self._rows.append(rows)
        return rows

    def scan(self, made: EncodedClips | None = None) -> Scan:
        """Return what was seen.

        Raises:
            VideoError: It is damaged, cut off, or its times do not increase.
        """
        header, pts = self.header, self.pts
        if header is None:
            raise VideoError("no_frames", "no frame could be decoded")
        check_times(pts, header)
        still = header.container == "gif" and len(pts) == 1
        kind: Literal["image", "video"] = "image" if still else "video"
        found = Scan(
            header=replace(header, interlaced=self._interlaced, kind=kind),
            first_pts=pts[0],
            pts=[value - pts[0] for value in pts],
            end_pts=pts[-1] - pts[0] + max(1, self._gap()),
            keyframes=self._keyframes,
            num_skipped=self._num_skipped,
            thumbs=np.stack(self._thumbs),
            thumb_frames=list(range(0, len(pts), self._stride)),
            changes=np.concatenate(self._rows),
            bars=whole_or(self._bars, header),
            tags=tags_of(self._container, self._stream),
            made=made,
        )
        check_end(found, self._limits)
        if self._damaged >= 0:
            raise VideoError("corrupt", f"frame {self._damaged} is damaged")
        return found

    def end_pts(self) -> int:
        """Return when the last frame ends, on the stream's own clock."""
        return self.pts[-1] + max(1, self._gap())

    def _gap(self) -> int:
        if len(self.pts) < 2:
            return self._last_gap
        return round(float(np.median(np.diff(self.pts))))

    def _keep(self, thumb: Frames, index: int) -> None:
        if index % self._stride:
            return
        self._thumbs.append(thumb)
        if len(self._thumbs) > _MAX_THUMBS:
            self._thumbs = self._thumbs[::2]
            self._stride *= 2

    def _check(self, frame: av.VideoFrame, header: Header) -> None:
        if (frame.width, frame.height) != (header.coded_width, header.coded_height):
            to = f"{frame.width} x {frame.height} px"
            raise VideoError("size_changes", f"to {to} inside the stream")
        if len(self.pts) >= self._limits.max_frames:
            raise VideoError("too_many_frames", f"over {self._limits.max_frames} frames")
        if frame.is_corrupt and self._damaged < 0:
            self._damaged = len(self.pts)
        if frame.interlaced_frame and not self._interlaced:
            self._interlaced = True
            check_policy(replace(header, interlaced=True), self._accept)


def check_policy(header: Header, accept: AcceptSettings) -> None:
    """Refuse what the settings do not want converted."""
    if header.is_hdr and accept.hdr == "refuse":
        raise VideoError("hdr", f"transfer characteristic {header.color_trc} needs tone mapping")
    if header.interlaced and accept.interlaced == "refuse":
        raise VideoError("interlaced", "interlaced video needs deinterlacing")


def check_times(pts: list[int], header: Header) -> None:
    """Refuse times that do not increase, and headers that cannot be."""
    if any(later <= earlier for earlier, later in itertools.pairwise(pts)):
        raise VideoError("bad_timestamps", "frame times do not increase")
    if header.width < 1 or header.height < 1 or header.time_base <= 0:
        raise VideoError("corrupt", "the header's size or clock is not positive")


def check_end(found: Scan, limits: Limits) -> None:
    """Refuse what ends before its header says (cut off), or long after what is accepted."""
    declared_s, length_s = found.header.duration_s, found.seconds(found.end_pts)
    if not math.isfinite(declared_s):
        raise VideoError("corrupt", "the declared duration is no number")
    if length_s > limits.max_duration_s:
        raise VideoError("too_long", f"{length_s:.0f} s, at most {limits.max_duration_s:.0f} s")
    missing_s = declared_s - length_s
    if found.num_skipped == 0 and missing_s > max(
        3 * length_s / found.num_frames, 0.05 * declared_s
    ):
        raise VideoError(
            "truncated", f"ends {missing_s:.2f} s before the {declared_s:.2f} s that it declares"
        )


def whole_or(bars: Bars | None, header: Header) -> Crop:
    """Return the box that black bars leave, or the whole picture where none were looked for."""
    return bars.box() if bars else Crop(0, 0, header.width, header.height)


def tags_of(container: av.container.InputContainer, stream: av.VideoStream) -> dict[str, str]:
    """Return the texts that a file carries about itself."""
    held = {**stream.metadata, **container.metadata}
    named = {name.lower(): text.strip() for name, text in held.items()}
    return {name: named[name] for name in _TAGS if named.get(name)}


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
