"""Small video files of every kind a decoder meets, made by the encoders themselves."""

import io
from fractions import Fraction

import av
import av.stream
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
    colorspace=None,
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
        if colorspace:
            stream.codec_context.colorspace = colorspace
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=colorspace
            )
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


def from_second(data, start_s, template="matroska", offset_s=0.0):
    """The packets from a time on, shown later: a recording of a stream that was under way."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=template) as out:
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.pts is not None and packet.pts * packet.time_base >= start_s:
                later = round(offset_s / packet.time_base)
                packet.pts += later
                packet.dts = None if packet.dts is None else packet.dts + later
                packet.stream = target
                out.mux(packet)
    return file.getvalue()


def shifted(data, times_s):
    """A Matroska file whose packets are shown at other times: {number: seconds}."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="matroska") as out:
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.pts is None:
                continue
            if number in times_s:
                packet.pts = round(times_s[number] / packet.time_base)
                packet.dts = max(packet.dts, packet.pts) if times_s[number] > 60 else packet.dts
            packet.stream = target
            out.mux(packet)
    return file.getvalue()


def concatenated(*parts):
    """Raw H.264 streams, one after the other, as one transport stream."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as out:
        target, shown = None, 0
        for part in parts:
            with av.open(io.BytesIO(part), format="h264") as source:
                stream = source.streams.video[0]
                target = target or out.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.size:
                        packet.time_base = Fraction(1, 90_000)
                        packet.pts = packet.dts = shown * 9000
                        packet.stream = target
                        out.mux(packet)
                        shown += 1
    return file.getvalue()


def with_cover(container="mp4"):
    """Sound with a picture of its sleeve, which demuxers show as a video stream."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        tone = out.add_stream("aac", rate=16_000, layout="mono")
        sleeve = out.add_stream("mjpeg", rate=1)
        sleeve.width, sleeve.height, sleeve.pix_fmt = 64, 48, "yuvj420p"
        sleeve.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 16_000, 0
        out.mux(tone.encode(frame))
        out.mux(tone.encode())
        picture = av.VideoFrame.from_ndarray(moving(1)[0], format="rgb24")
        out.mux(sleeve.encode(picture.reformat(format="yuvj420p")))
        out.mux(sleeve.encode())
    return file.getvalue()


def sound_and_picture(num_seconds):
    """A Matroska file whose sound is longer than its picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        picture = out.add_stream("libx264", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        tone = out.add_stream("aac", rate=16_000, layout="mono")
        for pixels in moving():
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            out.mux(picture.encode(frame))
        out.mux(picture.encode())
        for second in range(num_seconds):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
            frame.rate, frame.pts = 16_000, second * 16_000
            out.mux(tone.encode(frame))
        out.mux(tone.encode())
    return file.getvalue()
