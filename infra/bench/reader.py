"""How fast training's reader is, beside bare reading and decoding, and beside mosaicml-streaming.

    python -m infra.bench.reader [--clips 400] [--rounds 5] [--peer-python PEER/bin/python]

H.264 clips of 288x512 and 10 s, a keyframe a second, lie in media shards on the local disk. Every
case decodes the same frames with two processes, by the same code; the cases take turns. Ratios are
of medians over the rounds: of clips per second, and of processor seconds per clip, which a busy
machine bends less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from infra.bench import footage
from infra.bench.reader_loops import ENCODER, PROCESSES, RELEASE, Rate
from infra.bench.timing import commit, machine, say
from infra.store import release
from infra.store.dataset import Dataset
from infra.store.media import write_shard
from infra.store.selection import Selection
from infra.store.texts import text_hash

GOAL = 0.95
"""Clips per second, as a share of bare reading and decoding."""
_CLIPS_PER_SHARD = 50
_TEXTS, _TOKENS, _WIDTH = 40, 16, 512
_ROOT = Path(__file__).parents[2]


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="infra.bench.reader", description=__doc__)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default="", help="python with mosaicml-streaming")
    told = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "dataset")
        size_bytes = build(folder, told.clips, Path(name, "footage"))
        own = [sys.executable, "-m", "infra.bench.reader_loops"]
        cases = {"bare": [*own, "bare", str(folder)], "reader": [*own, "reader", str(folder)]}
        if told.peer_python:
            peer = [
                told.peer_python,
                "-m",
                "infra.bench.peer_streaming",
                str(folder),
                f"{name}/mds",
            ]
            _run([*peer, "write"])
            cases["streaming"] = [*peer, "read"]
        say(f"reader, {PROCESSES} processes, {machine(torch.device('cpu'))}, commit {commit()}")
        say(f"{told.clips} clips of 288x512, 10 s, {size_bytes / told.clips / 1e6:.2f} MB each")
        compare(cases, told.rounds)


def build(folder: Path, num_clips: int, scratch: Path) -> int:
    """Lay a dataset with a release; return the bytes of its clips."""
    kind = footage.Kind(width=512, height=288)
    files = footage.make(scratch, num_clips, scenes_per_file=1, kind=kind)
    dataset = Dataset.open(str(folder), create=True)
    size_bytes = 0
    for first in range(0, num_clips, _CLIPS_PER_SHARD):
        data = [file.read_bytes() for file in files[first : first + _CLIPS_PER_SHARD]]
        ids = [f"{first + number:032x}" for number in range(len(data))]
        refs = write_shard(dataset, list(zip(ids, data, strict=True)))
        size_bytes += sum(map(len, data))
        facts = {"kind": "video", "num_frames": 240, "width": 512, "height": 288}
        facts |= {"split_bucket": 999}
        dataset.append(
            "clips",
            [{"clip_id": i, **facts, **ref.columns()} for i, ref in zip(ids, refs, strict=True)],
        )
        captions = [
            {"clip_id": i, "text": _text(int(i, 16)), "origin": "human", "status": "ok"}
            for i in ids
        ]
        dataset.append("captions", captions)
    bits = np.zeros((_TOKENS, _WIDTH), "<u2").tobytes()
    shape = {"encoder_id": ENCODER, "num_tokens": _TOKENS, "width": _WIDTH, "values": bits}
    rows = [{"text_hash": text_hash(_text(number)), **shape} for number in range(_TEXTS)]
    dataset.append("embeddings", rows)
    release.create(dataset, RELEASE, Selection(validation_share=0, test_share=0))
    return size_bytes


def compare(cases: dict[str, list[str]], rounds: int) -> None:
    """Run the cases in turns and print rates and ratios."""
    found: dict[str, list[Rate]] = {name: [] for name in cases}
    for turn in range(rounds):
        for name, words in cases.items():
            rate = Rate(**json.loads(_run(words).splitlines()[-1]))
            found[name].append(rate)
            say(f"  round {turn + 1} of {rounds}: {name} {rate.clips / rate.seconds:.1f} clips/s")
    speed = {name: [rate.clips / rate.seconds for rate in rates] for name, rates in found.items()}
    cost = {name: [1000 * r.cpu_s / r.clips for r in rates] for name, rates in found.items()}
    for name in cases:
        low, high = min(speed[name]), max(speed[name])
        say(
            f"{name:<10} {statistics.median(speed[name]):7.1f} clips/s ({low:.1f} to {high:.1f}), "
            f"{statistics.median(cost[name]):6.2f} ms of processor a clip"
        )
    for other in (name for name in cases if name != "reader"):
        faster = statistics.median(speed["reader"]) / statistics.median(speed[other])
        cheaper = statistics.median(cost[other]) / statistics.median(cost["reader"])
        goal = f">= {GOAL}" if other == "bare" else "> 1"
        say(f"reader / {other}: {faster:.3f} by clock, {cheaper:.3f} by processor (goal {goal})")
    if "streaming" not in cases:
        say("mosaicml-streaming was not measured: give --peer-python")


def _text(number: int) -> str:
    return f"clip number {number % _TEXTS}"


def _run(words: list[str]) -> str:
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": cache}
        done = subprocess.run(
            words, cwd=_ROOT, env=env, stdout=subprocess.PIPE, check=True, text=True
        )
    return done.stdout


if __name__ == "__main__":
    main()
