"""Video and image files as arrays and back: probe, decode, encode, through PyAV and Pillow.

A decoder meets anything, so every fault leaves as a `VideoError` with a one-word reason that
quarantine counts by. Sizes are checked in the header before frames are allocated; one codec
thread, because threads hide corruption (scale by processes); containers are always closed.

    clip = decode(data)          # clip.frames uint8 [T,H,W,3], clip.pts_s float64 [T]
    data = encode_video(clip.frames, fps=8)
"""

import contextlib
import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.container
import av.error
import av.stream
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from infra import tone
from infra.encoding import encode_video as encode_video
from infra.stills import (
    Crop,
    Frames,
    Header,
    Limits,
    Source,
    head,
    is_image,
    load_image,
    probe_image,
    shrunk,
)
from infra.stills import VideoError as VideoError
from infra.stills import encode_image as encode_image

# Demuxers that read nothing but the bytes they are given (playlists could name other files).
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,gif,mxf,ivf,"
    "h264,hevc,wav,mp3,aac,flac,y4m,yuv4mpegpipe"
)


@dataclass(frozen=True)
class Clip:
    """Upright RGB frames [T,H,W,3] with square pixels, and their times from the first one."""

    frames: Frames
    pts_s: npt.NDArray[np.float64]


def probe(source: Source, limits: Limits | None = None) -> Header:
    """Return the header of a video or image, from its first frame.

    Args:
        source: The file's bytes, or a local path.
        limits: What to refuse.

    Raises:
        VideoError: The file is unreadable, empty, without video, or beyond the limits.
    """
    if is_image(head(source)):
        return probe_image(source, limits or Limits())
    with opened(source, limits) as (container, stream):
        for frame in decoded(container, stream):
            return header_of(container, stream, frame)
    raise VideoError("no_frames", "no frame could be decoded")


def decode(
    data: Source,
    max_side: int | None = None,
    limits: Limits | None = None,
    crop: Crop | None = None,
) -> Clip:
    """Return all frames of a video; an image is a clip of one frame.

    Args:
        data: The file's bytes, or a local path.
        max_side: Shrink frames so that their longer side is at most this many pixels.
        limits: What to refuse.
        crop: The part of the displayed picture that is wanted, as a clip's row gives it.

    Raises:
        VideoError: The file is broken or beyond the limits.
    """
    if is_image(head(data)):
        picture = _cropped(load_image(data, limits or Limits()), crop)
        return Clip(shrunk(picture, max_side)[None], np.zeros(1))
    bound = (limits or Limits()).max_clip_bytes
    frames: list[Frames] = []
    times: list[float] = []
    with opened(data, limits) as (container, stream):
        shown = Upright(stream, max_side, crop)
        for frame in decoded(container, stream):
            if frame.is_corrupt:
                raise VideoError("corrupt", f"frame {len(frames)} is damaged")
            frames.append(shown(frame))
            if frames[-1].shape != frames[0].shape:
                raise VideoError("size_changes", "the frame size changes inside the stream")
            times.append(seconds(frame, stream, len(times)))
            if len(frames) * frames[0].nbytes > bound:
                raise VideoError("too_large", f"over {bound} bytes of decoded frames")
    if not frames:
        raise VideoError("no_frames", "no frame could be decoded")
    return Clip(np.stack(frames), np.asarray(times, np.float64) - times[0])


def decode_image(data: Source, limits: Limits | None = None) -> Frames:
    """Return a still image, or a video's first frame, as upright RGB [H,W,3].

    Transparent pixels lie on white.

    Raises:
        VideoError: The file is broken or beyond the limits.
    """
    if is_image(head(data)):
        return load_image(data, limits or Limits())
    with opened(data, limits) as (container, stream):
        for frame in decoded(container, stream):
            return upright(frame, stream)
    raise VideoError("no_frames", "no frame could be decoded")


@contextlib.contextmanager
def opened(
    source: Source, limits: Limits | None = None, *, by_header: bool = False
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a video for decoding with one thread; faults inside the block become VideoErrors.

    FFmpeg decodes a frame or more to learn of a stream what its container may not say;
    `by_header` skips that for MP4, whose header says what copying packets needs.
    """
    bounds = limits or Limits()
    start = head(source)
    _check_head(start, bounds)
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    reason = "unreadable"
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    if by_header and start[4:8] == b"ftyp":
        options |= {"probesize": "32", "analyzeduration": "0", "skip_frame": "all"}
    try:
        with av.open(file, mode="r", options=options, metadata_errors="replace") as container:
            stream = _best_stream(container)
            _check_stream(container, stream, bounds)
            stream.codec_context.thread_count = 1
            stream.codec_context.skip_frame = "DEFAULT"
            stream.codec_context.options = {"max_pixels": str(bounds.max_frame_px)}
            reason = "corrupt"
            yield container, stream
    except (av.error.FFmpegError, UnicodeDecodeError) as fault:
        raise VideoError(reason, str(fault)) from fault


def decoded(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Yield the frames of an open video; see `decoded_packets`."""
    return decoded_packets(container.demux(stream), stream)


def decoded_packets(
    packets: "Iterable[av.Packet[av.VideoStream]]", stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Yield frames in display order from the first keyframe on (before it they are guesses).

    A keyframe that an edit list hides is one too. Some decoders mark no frames; where they do not
    reorder, their packets tell.

    Raises:
        VideoError: A packet is damaged, as demuxers of transport streams notice.
    """
    started, reorders = False, stream.codec_context.codec.reorder
    for packet in packets:
        started = started or (packet.is_keyframe and (packet.is_discard or not reorders))
        if packet.is_corrupt and started:
            raise VideoError("corrupt", f"the packet at {packet.pts} is damaged")
        for frame in packet.decode():
            started = started or bool(frame.key_frame)
            if started:
                yield frame


def header_of(
    container: av.container.InputContainer, stream: av.VideoStream, frame: av.VideoFrame
) -> Header:
    """Return the header, given the first decoded frame (rotation is only known there)."""
    sar = Fraction(stream.sample_aspect_ratio or 1)
    width, height = displayed_size(frame, sar)
    pix = frame.format
    return Header(
        kind="video",
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        pix_fmt=pix.name,
        color_trc=int(frame.color_trc),
        bit_depth=max(part.bits for part in pix.components),
        width=width,
        height=height,
        coded_width=frame.width,
        coded_height=frame.height,
        rotation=frame.rotation,
        sar=sar,
        fps=Fraction(stream.guessed_rate or stream.average_rate or 0),
        time_base=Fraction(stream.time_base or Fraction(1, 1_000_000)),
        duration_s=_duration_s(container, stream),
        has_audio=bool(container.streams.audio),
        interlaced=bool(frame.interlaced_frame),
    )


def seconds(frame: av.VideoFrame, stream: av.VideoStream, index: int) -> float:
    """Return when a frame is shown, on the stream's own clock; by its rate where it has none."""
    if frame.pts is not None and frame.time_base:
        return float(frame.pts * frame.time_base)
    return index / float(stream.guessed_rate or 25)


class Upright:
    """Shows the frames of a stream as RGB [H,W,3]: square pixels, rotated, alpha on white.

    HDR is mapped to the usual range. The converter is set up once and kept, which takes most of
    the time of converting a frame.
    """

    def __init__(
        self, stream: av.VideoStream, max_side: int | None = None, crop: Crop | None = None
    ) -> None:
        """Show frames with a longer side of at most `max_side`, of them only `crop`."""
        self._sar = Fraction(stream.sample_aspect_ratio or 1)
        self._max_side, self._crop = max_side, crop
        self._converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Frames:
        """Return a frame as displayed."""
        width, height = max(1, round(frame.width * self._sar)), frame.height
        longest = max(self._crop.w, self._crop.h) if self._crop else max(width, height)
        ratio = min(1.0, (self._max_side or longest) / longest)
        width, height = max(1, round(width * ratio)), max(1, round(height * ratio))
        pixels = self._pixels(frame, width, height)
        turned = np.rot90(pixels, round(frame.rotation / 90) % 4)
        return np.ascontiguousarray(_cropped(turned, self._crop, ratio), dtype=np.uint8)

    def _pixels(self, frame: av.VideoFrame, width: int, height: int) -> Frames:
        alpha, hdr = _is_clear(frame), frame.color_trc in (tone.PQ, tone.HLG)
        shown = self._converter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb48le" if hdr else "rgba" if alpha else "rgb24",
            interpolation="AREA" if height < frame.height else "BICUBIC",
            threads=1,
        ).to_ndarray()
        if hdr:
            return tone.mapped(shown.astype(np.uint16, copy=False), frame.color_trc)
        pixels = shown.astype(np.uint8, copy=False)
        if not alpha:
            return pixels
        share = pixels[..., 3:].astype(np.uint16)
        return ((pixels[..., :3] * share + 255 * (255 - share)) // 255).astype(np.uint8)


def upright(frame: av.VideoFrame, stream: av.VideoStream, max_side: int | None = None) -> Frames:
    """Return one frame as displayed, RGB [H,W,3]; for several, keep an `Upright`."""
    return Upright(stream, max_side)(frame)


def is_layered(frame: av.VideoFrame) -> bool:
    """Return whether showing a frame takes more than a change of its matrix."""
    return _is_clear(frame) or frame.color_trc in (tone.PQ, tone.HLG)


def _is_clear(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _cropped(pixels: Frames, crop: Crop | None, ratio: float = 1.0) -> Frames:
    """Return the box of a picture that was shrunk by `ratio`."""
    if crop is None:
        return pixels
    left, top = round(crop.x * ratio), round(crop.y * ratio)
    width, height = max(1, round(crop.w * ratio)), max(1, round(crop.h * ratio))
    return pixels[top : top + height, left : left + width]


def _best_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the largest video stream that is no cover art."""
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise VideoError("no_video", "no video stream")
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise VideoError("unknown_codec", "no decoder for the video stream's codec")
    return max(known, key=lambda s: s.codec_context.width * s.codec_context.height)


def _check_head(start: bytes, bounds: Limits) -> None:
    if not start:
        raise VideoError("empty_file", "the file has 0 bytes")
    if start.startswith(b"GIF8"):  # FFmpeg forgets sizes that it refuses itself
        width, height = struct.unpack("<HH", start[6:10])
        if width * height > bounds.max_frame_px:
            raise VideoError("too_large", f"{width} x {height} px, at most {bounds.max_frame_px}")


def _check_stream(
    container: av.container.InputContainer, stream: av.VideoStream, bounds: Limits
) -> None:
    context = stream.codec_context
    stretch = max(Fraction(1), Fraction(stream.sample_aspect_ratio or 1))  # as `upright` will
    if context.width * stretch * context.height > bounds.max_frame_px:
        size = f"{round(context.width * stretch)} x {context.height}"
        raise VideoError("too_large", f"{size} px, at most {bounds.max_frame_px} px a frame")
    duration_s = _duration_s(container, stream)
    if duration_s > bounds.max_duration_s:
        raise VideoError("too_long", f"{duration_s:.0f} s, at most {bounds.max_duration_s:.0f} s")
    if (stream.guessed_rate or 0) > bounds.max_fps and (stream.average_rate or 0) > bounds.max_fps:
        raise VideoError("absurd_rate", f"{stream.guessed_rate} frames/s")


def _duration_s(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    ends_s = (container.duration or 0) / 1_000_000
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska, one a track
    minutes, _, secs = rest.partition(":")
    with contextlib.suppress(ValueError):
        ends_s = int(hours) * 3600 + int(minutes) * 60 + float(secs)
    if "matroska" not in container.format.name:
        return ends_s
    starts_s = float((stream.start_time or 0) * (stream.time_base or 0))
    return ends_s - max(0.0, starts_s)  # Matroska counts from the zero of its clock


def displayed_size(frame: av.VideoFrame, sar: Fraction) -> tuple[int, int]:
    """Return width and height of a frame with square pixels, upright."""
    size = (max(1, round(frame.width * sar)), frame.height)
    return size if round(frame.rotation / 90) % 2 == 0 else (size[1], size[0])
