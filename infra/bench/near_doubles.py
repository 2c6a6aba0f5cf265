"""How long the search for near doubles takes, and how much memory, over ever more clips.

    python -m infra.bench.near_doubles [--quick]

A dataset gets rows of `clips` and `scores` with made-up perceptual hashes (no media): random ones,
of which every tenth is that of another clip with two bits flipped. A fresh process compares all;
then a thousandth more clips come, and another one compares those with all. Seconds are by the
clock and of the processors; peaks are of the whole process, beside what the imports alone take.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.bench import fresh
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.scores.alike import by_phash
from pipelines.scores.config import DoubleSettings
from pipelines.scores.doubles import search
from pipelines.scores.versions import VERSIONS

_MODULE = "infra.bench.near_doubles"
_PER_COMMIT = 100_000


def fill(dataset: Dataset, first: int, count: int) -> None:
    """Add clips `first` to `first + count` with hashes, each of a source of its own."""
    for start in range(first, first + count, _PER_COMMIT):
        numbers = np.arange(start, min(start + _PER_COMMIT, first + count))
        ids = [f"clip-{n:09}" for n in numbers]
        same = pa.array([640] * len(ids), pa.int64())
        clips = {
            "clip_id": ids,
            "kind": ["video"] * len(ids),
            "source_id": [f"of-{n:09}" for n in numbers],
            "width": same,
            "height": same,
            "num_frames": same,
            "phash": made_up(numbers),
        }
        dataset.append("clips", pa.table(clips))
        constant = {"scorer": "detail", "version": VERSIONS["detail"], "run_id": "bench"}
        scores = {name: [word] * len(ids) for name, word in constant.items()}
        dataset.append("scores", pa.table({"clip_id": ids, "value": [0.2] * len(ids), **scores}))


def made_up(numbers: npt.NDArray[np.int64]) -> list[str]:
    """Return hashes of 32 ones; of every tenth clip, nearly that of the clip before it."""
    order = np.random.default_rng(int(numbers[0])).random((len(numbers), 64)).argsort(axis=1)
    bits = (order < 32).astype(np.uint8)
    doubles = np.flatnonzero(numbers % 10 == 9)
    doubles = doubles[doubles > 0]
    bits[doubles] = bits[doubles - 1]
    for value in (0, 1):  # the first one and the first zero change places
        first = (bits[doubles] == value).argmax(axis=1)
        order[doubles, value] = first
    bits[doubles, order[doubles, 0]], bits[doubles, order[doubles, 1]] = 1, 0
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def measure(root: str, max_bits: int, memory_mib: int) -> dict[str, float]:
    """Return what one search takes and finds."""
    imports_mib = fresh.peak_mib()
    settings = DoubleSettings(phash=True, max_bits=max_bits, memory_mib=memory_mib)
    started, started_cpu = time.perf_counter(), time.process_time()
    found = search(Dataset.open(root), Selection(), by_phash(settings), "bench")
    return {
        "compared": found.num_compared,
        "fresh": found.num_fresh,
        "found": found.num_found,
        "seconds": time.perf_counter() - started,
        "cpu_s": time.process_time() - started_cpu,
        "imports_mib": imports_mib,
        "peak_mib": fresh.peak_mib(),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark, or one measurement in a process of its own."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 and 4,000 clips")
    parser.add_argument("--clips", type=int, nargs="+", help="instead of 10^4, 10^5, 10^6")
    parser.add_argument("--bits", type=int, default=4, help="largest distance, bits")
    parser.add_argument("--memory-mib", type=int, default=1024, help="memory given, MiB")
    parser.add_argument("--measure", metavar="DATASET", help="internal")
    given = parser.parse_args(args)
    if given.measure:
        sys.stdout.write(json.dumps(measure(given.measure, given.bits, given.memory_mib)) + "\n")
        return
    from infra.bench.timing import commit, say  # imports torch, which is not to be measured

    say(f"near doubles within {given.bits} bits, {given.memory_mib} MiB given; commit {commit()}")
    say("      clips      fresh      found    seconds      CPU s   imports MiB   peak MiB")
    usual = (1000, 4000) if given.quick else (10_000, 100_000, 1_000_000)
    for count in given.clips or usual:
        with tempfile.TemporaryDirectory() as root:
            dataset = Dataset.open(root, create=True)
            fill(dataset, 0, count)
            say(_line(root, given.bits, given.memory_mib))
            fill(dataset, count, count // 1000)
            say(_line(root, given.bits, given.memory_mib))


def _line(root: str, bits: int, memory_mib: int) -> str:
    """Measure in a fresh process."""
    told = ["--bits", str(bits), "--memory-mib", str(memory_mib)]
    cost = fresh.run(_MODULE, "--measure", root, *told)
    return (
        f"{cost['compared']:>11,} {cost['fresh']:>10,} {cost['found']:>10,} "
        f"{cost['seconds']:>10.2f} {cost['cpu_s']:>10.2f} {cost['imports_mib']:>13.0f} "
        f"{cost['peak_mib']:>10.0f}"
    )


if __name__ == "__main__":
    main()
