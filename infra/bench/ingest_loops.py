"""The least that an ingest could do, as bare loops: what `infra.bench.ingest` measures against.

Each call handles one file and runs in a process of its own pool; nothing is checked, named, hashed
or committed.
"""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from infra.bench.footage import FPS


def copy_packets(path: Path, out: Path, window_s: int) -> int:
    """Write the windows of a file with their packets copied; return how many they are."""
    with av.open(str(path), mode="r") as source:
        stream = source.streams.video[0]
        packets = (p for p in source.demux(stream) if p.dts is not None and p.pts is not None)
        length = round(window_s / Fraction(stream.time_base or 1))
        windows = itertools.groupby(packets, key=lambda p: int(p.pts or 0) // length)
        for number, group in windows:
            with av.open(str(out / f"{path.stem}-{number}.mp4"), mode="w") as file:
                target = file.add_stream_from_template(stream)
                for packet in group:
                    packet.pts = int(packet.pts or 0) - number * length
                    packet.dts = int(packet.dts or 0) - number * length
                    packet.stream = target
                    file.mux(packet)
    return int(number) + 1


def decode_encode(path: Path, out: Path, window_s: int, height: int, crf: int) -> int:
    """Write the windows of a file, decoded, scaled and encoded again; return how many they are."""
    options = {"crf": str(crf), "x264-params": "mbtree=0"}
    with av.open(str(path), mode="r") as source:
        stream = source.streams.video[0]
        stream.codec_context.thread_count = 1
        width = round(stream.codec_context.width * height / stream.codec_context.height / 2) * 2
        frames = enumerate(source.decode(stream))
        windows = itertools.groupby(frames, key=lambda item: item[0] // (window_s * FPS))
        for number, group in windows:
            with av.open(str(out / f"{path.stem}-{number}.mp4"), mode="w") as file:
                target: Any = file.add_stream("libx264", rate=FPS, options=options)
                target.width, target.height, target.pix_fmt = width, height, "yuv420p"
                target.codec_context.thread_count = 1
                for index, frame in group:
                    small = frame.reformat(width, height, "yuv420p", interpolation="AREA")
                    small.pts, small.time_base = index % (window_s * FPS), Fraction(1, FPS)
                    file.mux(target.encode(small))
                file.mux(target.encode())
    return int(number) + 1
