"""Made footage for benchmarks: many different files of natural texture, at little cost.

A few scenes are encoded once; every file is a shuffled sequence of them, its packets copied, so
that no two files are the same and each can be cut at a scene without decoding.

    paths = footage.make(folder, num_files=16, scenes_per_file=6)
"""

import io
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import numpy as np
import numpy.typing as npt

FPS = 24
_MARGIN = 64  # pixels that a scene's picture is larger than what is shown of it


@dataclass(frozen=True)
class Kind:
    """What the footage looks like to a decoder."""

    width: int = 1280
    height: int = 720
    scene_s: int = 10
    num_scenes: int = 8
    crf: int = 23


def make(
    folder: Path, num_files: int, scenes_per_file: int, kind: Kind | None = None
) -> list[Path]:
    """Write H.264 files, a keyframe at the start of every scene and each second after it.

    No two are the same, else an ingest would take one for the other: where orders of scenes are
    too few, a tag tells files apart.
    """
    made_of = kind or Kind()
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [_scene(made_of, seed) for seed in range(made_of.num_scenes)]
    orders = list(itertools.product(range(len(scenes)), repeat=scenes_per_file))
    random.Random(0).shuffle(orders)
    paths = []
    for index, order in enumerate(itertools.islice(itertools.cycle(orders), num_files)):
        path = folder / f"{index:05d}.mp4"
        path.write_bytes(_joined([scenes[i] for i in order], made_of.scene_s, path.stem))
        paths.append(path)
    return paths


def _scene(kind: Kind, seed: int) -> bytes:
    """Return one encoded scene: a camera that pans over a picture, with grain."""
    chance = np.random.default_rng(seed)
    picture = _picture(kind, chance)
    grain = chance.integers(-4, 5, (8, kind.height, kind.width, 1), np.int16)
    step = chance.uniform(-1, 1, 2)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", container_options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = FPS, 1
        stream.options = {
            "crf": str(kind.crf),
            "preset": "veryfast",
            "bf": "0",
            "sc_threshold": "0",
        }
        for index in range(kind.scene_s * FPS):
            top, left = (int(_MARGIN / 2 * (1 + way * np.sin(index / 40))) for way in step)
            shown = picture[top : top + kind.height, left : left + kind.width] + grain[index % 8]
            pixels = np.clip(shown, 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


def _picture(kind: Kind, chance: np.random.Generator) -> npt.NDArray[np.int16]:
    """Return noise whose power falls with frequency, as in photographs, [h, w, 3]."""
    shape = (kind.height + _MARGIN, kind.width + _MARGIN)
    down, across = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    falling = 1 / np.maximum(np.hypot(down, across), 1 / max(shape))
    layers = []
    for _ in range(3):
        layer = np.fft.irfft2(np.fft.rfft2(chance.standard_normal(shape)) * falling, shape)
        layers.append(128 + 48 * (layer - layer.mean()) / layer.std())
    return np.stack(layers, axis=2).astype(np.int16)


def _joined(scenes: Sequence[bytes], scene_s: int, name: str) -> bytes:
    """Return scenes one after the other in one MP4 that holds a name, without encoding."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", container_options={"fflags": "+bitexact"}) as out:
        out.metadata["episode_id"] = name
        target: av.VideoStream | None = None
        for index, scene in enumerate(scenes):
            with av.open(io.BytesIO(scene), mode="r") as container:
                stream = container.streams.video[0]
                target = target or out.add_stream_from_template(stream)
                shift = round(index * scene_s / Fraction(stream.time_base or 1))
                for packet in _packets(container, stream):
                    packet.pts, packet.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
                    packet.stream = target
                    out.mux(packet)
    return file.getvalue()


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.pts is not None and packet.dts is not None:
            yield packet
