"""The loops that `infra.bench.reader` compares, each in processes of its own.

    python -m infra.bench.reader_loops reader FOLDER        # prints {"clips", "seconds", "cpu_s"}

All decode the same way: `train.decode` picks 16 frames of a clip at 24 frames/s from a random start
and shows them at 36x64. They differ in how a clip is chosen, how its bytes come and how frames get
to the process that would train. Two processes decode; what is timed begins once both are at work.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from infra.store import cache, index, release
from train.config import ReaderSettings, TrainSettings
from train.data import Reader, Source, batches
from train.decode import Decoder, Geometry
from train.order import sample_seed
from train.stream import Stream

ENCODER, RELEASE = "bench", "r"
PROCESSES, BATCH, WARM_BATCHES = 2, 4, 16
SHOWN = Geometry(frames=16, height=36, width=64)


@dataclass(frozen=True)
class Rate:
    """How many clips in how many seconds, and processor seconds of all processes."""

    clips: int
    seconds: float
    cpu_s: float


class Window:
    """Times a loop and what its processes use, from `begin` to `end`."""

    def __init__(self) -> None:
        self._me = psutil.Process()

    def begin(self) -> None:
        """Start to count."""
        self._cpu_s, self._since = self._used(), time.perf_counter()

    def end(self, clips: int) -> Rate:
        """Return the rate since `begin`."""
        return Rate(clips, time.perf_counter() - self._since, self._used() - self._cpu_s)

    def _used(self) -> float:
        everyone = [self._me, *self._me.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in everyone)


class Preads:
    """Gives the bytes of a clip by one read of an open file, unchecked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, int] = {}

    def get(self, row: Mapping[str, Any]) -> bytes:
        """Return the bytes."""
        name = row["media_file"]
        if name not in self._files:
            self._files[name] = os.open(self._root / name, os.O_RDONLY)
        return os.pread(self._files[name], row["media_length"], row["media_offset"])


def settings(num_clips: int) -> TrainSettings:
    """Return what the reader is told."""
    reader = ReaderSettings(framerates=(24.0,), processes=PROCESSES, cache_mib=0)
    steps = num_clips // BATCH
    return TrainSettings(
        batch_videos=BATCH, batch_images=0, num_workers=1, steps=steps, reader=reader
    )


def reader(folder: Path) -> Rate:
    """Read one epoch as training does."""
    num_clips = release.load(str(folder), RELEASE).num_clips
    told = settings(num_clips)
    source = Source(str(folder), RELEASE, ENCODER)
    window = Window()
    found = batches(Reader(source, told, SHOWN), range(told.steps), 0, 1, PROCESSES)
    for number, batch in enumerate(found):
        assert batch.clips.shape == (BATCH, 3, 16, 36, 64)
        if number == WARM_BATCHES - 1:
            window.begin()
        if number == told.steps - 1:
            return window.end((told.steps - WARM_BATCHES) * BATCH)
    raise AssertionError("the last step ends the loop")


def bare(folder: Path) -> Rate:
    """Read and decode the same clips and spans in the same order, and drop the frames."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for rank in range(PROCESSES):
        here, there = context.Pipe()
        workers.append(context.Process(target=_bare_worker, args=(folder, rank, there)))
        workers[-1].start()
        pipes.append(here)
    window = Window()
    for pipe in pipes:
        pipe.recv()  # warm
    window.begin()
    for pipe in pipes:
        pipe.send("go")
    clips = sum(pipe.recv() for pipe in pipes)
    rate = window.end(clips)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send("done")
        worker.join()
    return rate


def _bare_worker(folder: Path, rank: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    found = release.load(str(folder), RELEASE)
    told = settings(found.num_clips)
    rows = index.opened(found, cache.folder(told.reader.disk_cache))
    stream = Stream.build("video", rows, BATCH, told, SHOWN.frames)
    steps = range(rank, told.steps, PROCESSES)  # as a DataLoader deals them out
    every = [p for step in steps for p in range(step * BATCH, (step + 1) * BATCH)]
    work = [(stream.row(p), sample_seed(told.seed, "video", p)) for p in every]
    decoder = Decoder(Preads(folder), told.reader, SHOWN, keeps=False)
    warm = WARM_BATCHES * BATCH // PROCESSES
    for row, seed in work[:warm]:
        decoder.shown(row, seed)
    pipe.send("warm")
    pipe.recv()
    for row, seed in work[warm:]:
        decoder.shown(row, seed)
    pipe.send(len(work) - warm)
    pipe.recv()


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop = {"reader": reader, "bare": bare}[sys.argv[1]]
    sys.stdout.write(json.dumps(asdict(loop(Path(sys.argv[2])))) + "\n")
