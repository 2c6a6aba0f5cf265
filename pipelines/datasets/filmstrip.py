"""A clip at a glance: a few frames side by side, as a small WebP picture."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra import video
from infra.stills import Limits, is_image

NUM_FRAMES = 6
_HEIGHT, _WIDTH, _GAP = 96, 171, 2
_LIMITS = Limits()
_QUALITY = 72


def filmstrip(data: bytes, num_frames: int) -> bytes:
    """Return frames from the middle of equal parts of a clip; an image is one frame.

    Args:
        data: The encoded clip.
        num_frames: How many frames it has, as counted when it was cut.

    Raises:
        DataError: It cannot be decoded.
    """
    if is_image(data[:16]):
        picture = Image.fromarray(video.decode_image(data, _LIMITS))
        picture.thumbnail((2 * _WIDTH, 2 * _HEIGHT))
        return _webp(picture)
    frames = _frames(data, num_frames)
    small = [Image.fromarray(frame) for frame in frames]
    for picture in small:
        picture.thumbnail((_WIDTH, _HEIGHT))
    width = sum(picture.width + _GAP for picture in small) - _GAP
    strip = Image.new("RGB", (width, max(picture.height for picture in small)), "white")
    left = 0
    for picture in small:
        strip.paste(picture, (left, 0))
        left += picture.width + _GAP
    return _webp(strip)


def _frames(data: bytes, num_frames: int) -> list[NDArray[np.uint8]]:
    """Return the chosen frames; the others are decoded and not turned into pixels."""
    count = max(1, min(NUM_FRAMES, num_frames))
    wanted = {int((index + 0.5) * max(num_frames, 1) / count) for index in range(count)}
    found: list[NDArray[np.uint8]] = []
    with video.opened(data, _LIMITS) as (container, stream):
        for index, frame in enumerate(video.decoded(container, stream)):
            if index in wanted:
                found.append(video.upright(frame, stream, 2 * _WIDTH))
            if index >= max(wanted):
                break
    if not found:
        raise video.VideoError("no_frames", "no frame could be decoded")
    return found


def _webp(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "WEBP", quality=_QUALITY, method=4)
    return file.getvalue()
