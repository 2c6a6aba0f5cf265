"""Short videos as animated pictures, for a page or a message: GIF and WebP, through Pillow.

Both loop for ever. A frame is shown until the moment the next one is due, rounded to the format's
clock, so that rounding never adds up. Frames that repeat are stored as one that lasts longer.

    data = encode_gif(frames, fps=24)        # 256 colours a frame, clock of 1/100 s
    data = encode_webp(frames, fps=24)       # every pixel kept, clock of 1/1000 s
"""

import io
from fractions import Fraction

from PIL import Image

from infra.errors import ConfigError
from infra.stills import Frames

GIF_MAX_FPS = 50.0
"""Faster frames last under 2/100 s, which browsers slow down to 1/10 s."""

_GIF_HZ, _WEBP_HZ = 100, 1000


def durations(num_frames: int, fps: Fraction | float, clock_hz: int) -> list[int]:
    """Return how long each frame is shown, in ticks of a clock; their sum is off by half a tick.

    >>> durations(6, 24, 100)
    [4, 4, 4, 5, 4, 4]
    """
    rate = Fraction(fps)
    ends = [round(clock_hz * (index + 1) / rate) for index in range(num_frames)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def encode_gif(frames: Frames, fps: Fraction | float) -> bytes:
    """Return RGB frames [T,H,W,3] as a GIF; each has the 256 colours that suit it best.

    Raises:
        ConfigError: More frames a second than a GIF can show.
    """
    check_gif_rate(fps)
    pictures = [Image.fromarray(frame).quantize(256) for frame in frames]
    ticks = durations(len(frames), fps, _GIF_HZ)
    shown_ms = [tick * (1000 // _GIF_HZ) for tick in ticks]
    file, (first, *others) = io.BytesIO(), pictures
    first.save(
        file, "GIF", save_all=True, append_images=others, duration=shown_ms, loop=0, disposal=1
    )
    return file.getvalue()


def encode_webp(frames: Frames, fps: Fraction | float) -> bytes:
    """Return RGB frames [T,H,W,3] as an animated WebP without loss."""
    pictures = [Image.fromarray(frame) for frame in frames]
    shown_ms = durations(len(frames), fps, _WEBP_HZ)
    file, (first, *others) = io.BytesIO(), pictures
    first.save(
        file, "WEBP", save_all=True, append_images=others, duration=shown_ms, loop=0, lossless=True
    )
    return file.getvalue()


def check_gif_rate(fps: Fraction | float) -> None:
    """Check that a GIF can show this many frames a second.

    Raises:
        ConfigError: It cannot.
    """
    if fps > GIF_MAX_FPS:
        raise ConfigError(
            f"gif: {float(fps):g} frames/s, players show at most {GIF_MAX_FPS:g}; "
            "lower fps, or take webp or mp4"
        )
