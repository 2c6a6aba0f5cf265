"""Small video files of every kind a decoder meets, made by the encoders themselves."""

import io
from fractions import Fraction

import av
import numpy as np


def noise(num_frames=12, height=48, width=64, seed=0):
    """Coloured blocks that change from frame to frame, [T,H,W,3]."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (num_frames, height // 8, width // 8, 3), np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


def moving(num_frames=12, colour=(220, 30, 30), back=(90, 90, 90), height=48, width=64):
    """A square that crosses a plain background, [T,H,W,3]."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = back
    for index in range(num_frames):
        left = round(index * (width - 16) / max(1, num_frames - 1))
        frames[index, 16:32, left : left + 16] = colour
    return frames


def video(
    frames=None,
    container="mp4",
    codec="libx264",
    pix_fmt="yuv420p",
    fps=10,
    rotation=None,
    sar=None,
    transfer=None,
    options=None,
):
    """A video file with what the arguments ask for and `encode_video` does not offer."""
    file = io.BytesIO()
    frames = noise() if frames is None else frames
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.options = options or {}
        if rotation:
            stream.set_display_rotation(rotation)
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        if transfer:
            stream.codec_context.color_trc = transfer
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            if transfer:
                frame.color_trc = transfer
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def sound(container="mp4", codec="aac", layout_format="fltp"):
    """A file with one second of silence and no picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=16_000, layout="mono")
        kind = np.float32 if layout_format == "fltp" else np.int16
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), kind), layout_format, "mono")
        frame.rate, frame.pts = 16_000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()
