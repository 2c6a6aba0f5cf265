"""Frames become files: one encoder thread, no clocks or random names, the same bytes each time."""

import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np

from infra.stills import BT601, Frames, VideoError

Codec = Literal["libx264", "libx265", "libvpx-vp9", "libsvtav1"]

_CLOCK = Fraction(1, 90_000)
_MIN_X265_WIDTH = 64  # x265 4.2 writes beyond its buffers at 48 (seen with malloc's checks)
_OPTIONS: dict[str, dict[str, str]] = {
    # x264's macroblock tree varies from run to run on small pictures (seen in 22 of 91 clips).
    "libx264": {"x264-params": "mbtree=0"},
    "libx265": {"x265-params": "pools=none:frame-threads=1:log-level=error:info=0"},
    "libvpx-vp9": {"b": "0", "deadline": "good", "cpu-used": "5"},
    "libsvtav1": {"preset": "8", "svtav1-params": "lp=1"},
}


@dataclass(frozen=True)
class Look:
    """How an encoder's numbers are to be read (ITU-T H.273): matrix, primaries, transfer."""

    matrix: int = BT601
    primaries: int = 2
    transfer: int = 2


class Writer:
    """Encodes YUV 4:2:0 pictures of one size, handed in one by one with their times."""

    def __init__(
        self,
        size: tuple[int, int],
        fps: Fraction,
        container: Literal["mp4", "webm"] = "mp4",
        codec: Codec = "libx264",
        crf: int = 18,
        look: Look | None = None,
        clock: Fraction | None = None,
        *,
        bulk: bool = False,
    ) -> None:
        """Open an encoder for pictures of `size` (width, height), both even.

        With `bulk`, x264 does not try how many frames between two references are best, which
        saved an eighth of the time (and 9 % of the bytes) on panned footage of 512 x 288.

        Raises:
            VideoError: The pictures are too small for the encoder.
        """
        if codec == "libx265" and size[0] < _MIN_X265_WIDTH:
            least = f"at least {_MIN_X265_WIDTH} px wide"
            raise VideoError("too_small", f"{size[0]} x {size[1]} px; H.265 must be {least}")
        self._file = io.BytesIO()
        options = {"fflags": "+bitexact"}  # no random identifiers, no version strings
        self._out = av.open(self._file, mode="w", format=container, container_options=options)
        stream = self._out.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        _tell_look(stream.codec_context, look or Look())
        options = {"crf": str(crf), **_OPTIONS[codec]}
        if bulk and codec == "libx264":
            options["x264-params"] += ":b-adapt=0"
        stream.codec_context.options = options
        if codec == "libx265":
            stream.codec_context.codec_tag = "hvc1"  # as players of MP4 expect
        if clock:
            stream.codec_context.time_base = clock
        self._stream, self._clock = stream, clock

    def add(self, frame: av.VideoFrame, pts: int | None = None) -> None:
        """Encode a picture, shown at `pts` on the writer's clock; without, by the rate."""
        frame.pts = pts
        if pts is not None and self._clock:
            frame.time_base = self._clock
        frame.pict_type = 0  # the encoder decides where keyframes lie
        self._out.mux(self._stream.encode(frame))

    def finish(self) -> bytes:
        """Return the file."""
        self._out.mux(self._stream.encode())
        self._out.close()
        return self._file.getvalue()

    def close(self) -> None:
        """Give the encoder up."""
        self._out.close()


def _tell_look(context: av.VideoCodecContext, look: Look) -> None:
    context.thread_count, context.colorspace = 1, look.matrix
    context.color_primaries, context.color_trc = look.primaries, look.transfer


def encode_video(
    frames: Iterable[Frames],
    fps: Fraction | float,
    container: Literal["mp4", "webm"] = "mp4",
    codec: Codec = "libx264",
    crf: int = 18,
    pts_s: Sequence[float] | None = None,
) -> bytes:
    """Return RGB frames as a video file; the same frames give the same bytes.

    Args:
        frames: [T,H,W,3], or one [H,W,3] after the other; odd sides lose a pixel, as 4:2:0 needs.
        fps: Frames per second.
        container: The file's kind.
        codec: FFmpeg's name of the encoder.
        crf: Quality, 0 (best) to 51 (H.264) or 63 (VP9).
        pts_s: When each frame is shown, where the rate varies.
    """
    rate = Fraction(fps).limit_denominator(1_001_000)
    images = iter(frames)
    first = next(images)
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    clock = None if pts_s is None else _CLOCK
    writer = Writer((width, height), rate, container, codec, crf, clock=clock)
    try:
        for index, pixels in enumerate(itertools.chain([first], images)):
            picture = np.ascontiguousarray(pixels[:height, :width])
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace=BT601)
            writer.add(frame, None if pts_s is None else round(pts_s[index] * 90_000))
        return writer.finish()
    finally:
        writer.close()
