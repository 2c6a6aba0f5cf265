"""Still images as arrays and back, and the words that images and videos share.

`infra.video` handles both kinds of file and builds on this; the types live here because a
still image is the simpler case.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import CodecContext, Flags
from PIL import Image, ImageOps, UnidentifiedImageError

from infra.errors import DataError

Frames = npt.NDArray[np.uint8]
Source = bytes | str | Path
BT601 = 5  # matrix of small pictures (H.273 table 4); written into what we encode

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")
_TAGS = ("title", "description", "comment")
_IMAGE_DESCRIPTION = 0x010E  # EXIF
PQ, HLG = 16, 18  # SMPTE ST 2084 and ARIB STD-B67, transfer characteristics of H.273 table 3


class VideoError(DataError):
    """A file that cannot be used, with the reason it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        return type(self), (self.reason, self.message)


@dataclass(frozen=True)
class Crop:
    """A box in displayed pixels."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class Limits:
    """What is refused before memory is taken for it."""

    max_frame_px: int = 7680 * 4320
    max_duration_s: float = 4 * 3600.0
    max_fps: float = 1000.0
    max_clip_bytes: int = 2 << 30
    max_frames: int = 1_000_000


@dataclass(frozen=True)
class Header:
    """What a file says about itself; `width` and `height` are as displayed (upright, square)."""

    kind: Literal["video", "image"]
    container: str
    codec: str
    pix_fmt: str
    color_trc: int
    bit_depth: int
    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation: int
    sar: Fraction
    fps: Fraction
    time_base: Fraction
    duration_s: float
    has_audio: bool
    interlaced: bool

    @property
    def must_encode(self) -> bool:
        """Whether readers could not show its packets as they are."""
        return self.is_hdr or self.interlaced

    @property
    def is_hdr(self) -> bool:
        """Whether the light levels need tone mapping (`infra.tone`)."""
        return self.color_trc in (PQ, HLG)


def is_image(head: bytes) -> bool:
    """Return whether the first 16 bytes of a file are those of a still image."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(_MAGIC) or webp or head[4:12] == b"ftypavif"


def encode_image(frame: Frames, kind: Literal["png", "jpeg", "webp"] = "png") -> bytes:
    """Return one RGB frame [H,W,3] as a still image: PNG exactly, the others nearly."""
    codec, pix_fmt = {
        "png": ("png", "rgb24"),
        "jpeg": ("mjpeg", "yuvj444p"),
        "webp": ("libwebp", "yuv420p"),
    }[kind]
    context: Any = CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt = frame.shape[0], frame.shape[1], pix_fmt
    context.time_base, context.thread_count = Fraction(1, 25), 1
    if kind == "jpeg":
        context.flags |= Flags.qscale
        context.global_quality = 2 * 118  # FFmpeg's FF_QP2LAMBDA: quantiser 2, near lossless
    if kind == "webp":
        context.options = {"quality": "95"}
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    if pix_fmt != "rgb24":
        picture = picture.reformat(format=pix_fmt, dst_colorspace=BT601)
    return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])


def head(source: Source) -> bytes:
    """Return the first 16 bytes of a file."""
    if isinstance(source, bytes):
        return source[:16]
    try:
        with Path(source).open("rb") as file:
            return file.read(16)
    except OSError as fault:
        raise VideoError("unreadable_file", f"{source}: {fault.strerror}") from fault


@contextlib.contextmanager
def _picture(source: Source, limits: Limits) -> Iterator[Image.Image]:
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with Image.open(file) as picture:
            if math.prod(picture.size) > limits.max_frame_px:
                raise VideoError("too_large", f"{picture.size} px, at most {limits.max_frame_px}")
            yield picture
    except Image.DecompressionBombError as fault:
        most = min(limits.max_frame_px, 2 * (Image.MAX_IMAGE_PIXELS or limits.max_frame_px))
        raise VideoError("too_large", f"over {most} px; no picture may have more") from fault
    except UnidentifiedImageError as fault:
        raise VideoError("unreadable", str(fault)) from fault
    except (OSError, SyntaxError, ValueError) as fault:
        reason = "truncated" if "truncated" in str(fault).lower() else "corrupt"
        raise VideoError(reason, str(fault)) from fault


def load_image(source: Source, limits: Limits) -> Frames:
    """Return a still as displayed, RGB [H,W,3]; transparent pixels lie on white."""
    with _picture(source, limits) as picture:
        turned = ImageOps.exif_transpose(picture)
        if "A" in turned.getbands() or "transparency" in turned.info:
            layer = turned.convert("RGBA")
            turned = Image.new("RGBA", layer.size, "white")
            turned.alpha_composite(layer)
        elif turned.mode.startswith("I;16"):
            turned = turned.convert("I").point(lambda value: value / 257).convert("L")
        return np.asarray(turned.convert("RGB"), dtype=np.uint8)


def probe_image(source: Source, limits: Limits) -> Header:
    """Return the header of a still, without decoding it."""
    with _picture(source, limits) as picture:
        width, height = picture.size
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientation on its side
        return Header(
            kind="image",
            container=(picture.format or "").lower(),
            codec=(picture.format or "").lower(),
            pix_fmt=picture.mode,
            color_trc=2,
            bit_depth=16 if "16" in picture.mode else 8,
            width=height if turned else width,
            height=width if turned else height,
            coded_width=width,
            coded_height=height,
            rotation=90 if turned else 0,
            sar=Fraction(1),
            fps=Fraction(0),
            time_base=Fraction(1),
            duration_s=0.0,
            has_audio=False,
            interlaced=False,
        )


def image_tags(source: Source, limits: Limits) -> dict[str, str]:
    """Return the texts that a still carries about itself: PNG's words, EXIF's description."""
    with _picture(source, limits) as picture:
        held = {str(name).lower(): text for name, text in picture.info.items()}
        found = {name: held[name] for name in _TAGS if isinstance(held.get(name), str)}
        described = picture.getexif().get(_IMAGE_DESCRIPTION)
    if isinstance(described, str):
        found.setdefault("description", described)
    return {name: text.strip() for name, text in found.items() if text.strip()}


def shrunk(pixels: Frames, max_side: int | None) -> Frames:
    """Return RGB [H,W,3] no larger than `max_side` pixels, averaged over areas."""
    height, width = pixels.shape[:2]
    if not max_side or max(width, height) <= max_side:
        return pixels
    ratio = max_side / max(width, height)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), dtype=np.uint8)


def filmstrip(rows: Sequence[Frames], frame_width: int, gap: int = 2) -> Frames:
    """Return clips below each other as one picture: a clip a row, its frames from left to right.

    Args:
        rows: Clips [T,H,W,3]; sizes and lengths may differ.
        frame_width: Width of every frame in the picture, in pixels.
        gap: White pixels between frames and between rows.
    """
    resized = [np.stack([_widened(frame, frame_width) for frame in clip]) for clip in rows]
    width = max(len(clip) for clip in resized) * (frame_width + gap) - gap
    height = sum(clip.shape[1] + gap for clip in resized) - gap
    strip = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for clip in resized:
        for index, frame in enumerate(clip):
            left = index * (frame_width + gap)
            strip[top : top + frame.shape[0], left : left + frame_width] = frame
        top += clip.shape[1] + gap
    return strip


def _widened(frame: Frames, width: int) -> Frames:
    """Return a frame at another width; enlarged pixels stay square."""
    height = max(1, round(frame.shape[0] * width / frame.shape[1]))
    how = Image.Resampling.NEAREST if width > frame.shape[1] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(frame).resize((width, height), how), dtype=np.uint8)
