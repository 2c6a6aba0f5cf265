"""How close the ingest comes to a bare loop over the same files, and how a peer does.

    python -m infra.bench.ingest --mode remux        # against copying packets
    python -m infra.bench.ingest --mode transcode    # against decoding and encoding at 288p
    python -m infra.bench.ingest --mode transcode --peer-python PEER/bin/python  # and the peer

All use two processes and read the same made files (`footage`) from the page cache, and write clips
of ten seconds. The ingest does all that it does elsewhere: hashes, a look at each clip, shots,
checksums, commits; signal scores are a case of their own, since stage `score` can measure them
later (`scores.at_ingest`). The ingest syncs what it writes, so a bare loop that does so too stands
beside the plain one. Ray is started before the clock; its workers' imports are within. CPU seconds
are those of the whole machine, so run this on an idle one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import psutil

from infra import cluster, storage
from infra.bench import footage, ingest_loops
from infra.bench.timing import commit, processor, say
from pipelines.ingest_config import AcceptSettings, CutSettings, IngestSettings
from pipelines.sources.config import SourceSettings

Mode = Literal["remux", "transcode"]
Case = Callable[[Path], int]
"""Writes clips below a new folder and returns how many they are."""

GOALS: Mapping[Mode, float] = {"remux": 0.8, "transcode": 0.9}
_HEIGHT, _CRF, _PROCESSES, _CLIP_S = 288, 23, 2, 10
_FILES: Mapping[Mode, int] = {"remux": 240, "transcode": 24}
_FILES_PER_TASK: Mapping[Mode, int] = {"remux": 8, "transcode": 1}  # both processes have work


@dataclass(frozen=True)
class Result:
    """One case in one round."""

    seconds: float
    cpu_s: float
    num_clips: int

    @property
    def clips_per_s(self) -> float:
        """Clips a second of wall time."""
        return self.num_clips / self.seconds

    @property
    def cpu_s_per_clip(self) -> float:
        """CPU seconds that a clip takes."""
        return self.cpu_s / self.num_clips


def settings_of(mode: Mode) -> IngestSettings:
    """Return the settings of an ingest that does what the bare loop does, and more."""
    if mode == "remux":
        accept = AcceptSettings(validate_by="packets", sample_s=_CLIP_S)
        cut = CutSettings(window_s=_CLIP_S)
    else:
        accept = AcceptSettings()
        cut = CutSettings(window_s=_CLIP_S, encode="transcode", height=_HEIGHT, crf=_CRF)
    return IngestSettings(accept=accept, cut=cut, files_per_task=_FILES_PER_TASK[mode])


def ours(mode: Mode, measure: bool, source: Path, out: Path) -> int:
    """Ingest the files into a new dataset, with signal scores or without; Ray is running."""
    from pipelines.ingest import ingest  # these import Ray, whose settings come first
    from pipelines.prepare import prepared

    root, settings, sources = str(out / "dataset"), settings_of(mode), SourceSettings()
    with prepared(root, str(source), sources, settings) as found:
        run_id = uuid.uuid4().hex
        counts = ingest(root, found, settings, sources, run_id, measure=measure)
    return sum(one.num_clips for one in counts.values())


def bare(mode: Mode, sync: bool, source: Path, out: Path) -> int:
    """Run the bare loop over the files in a pool of processes; `sync` waits for the disk."""
    files = sorted(source.glob("*.mp4"))
    loop = (
        partial(ingest_loops.copy_packets, out=out, window_s=_CLIP_S)
        if mode == "remux"
        else partial(
            ingest_loops.decode_encode, out=out, window_s=_CLIP_S, height=_HEIGHT, crf=_CRF
        )
    )
    with ProcessPoolExecutor(_PROCESSES) as pool:
        num_clips = sum(pool.map(loop, files))
    if sync:
        os.sync()
    return num_clips


def peer(python: str, clips_per_file: int, source: Path, out: Path) -> int:
    """Run video2dataset over the files; return how many clips its tars hold."""
    script = str(Path(__file__).with_name("peer_video2dataset.py"))
    numbers = [str(number) for number in (_CLIP_S, clips_per_file, _HEIGHT)]
    words = [python, script, str(source), str(out / "tars"), *numbers]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    tars = sorted((out / "tars").glob("*.tar"))
    if done.returncode or not tars:
        raise SystemExit(f"{words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    listed = [subprocess.run(["tar", "tf", tar], check=True, capture_output=True) for tar in tars]
    return sum(one.stdout.decode().count(".mp4\n") for one in listed)


def measured(case: Case, scratch: Path) -> Result:
    """Return what one call takes; what it wrote is removed."""
    out = scratch / uuid.uuid4().hex
    out.mkdir()
    cpu, begun = _cpu_s(), time.perf_counter()
    num_clips = case(out)
    result = Result(time.perf_counter() - begun, _cpu_s() - cpu, num_clips)
    storage.delete(str(out))
    return result


def compare(cases: Mapping[str, Case], rounds: int, scratch: Path) -> dict[str, list[Result]]:
    """Return the results of every case; cases take turns, a first round does not count."""
    found: dict[str, list[Result]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            result = measured(case, scratch)
            say(f"  round {turn} of {rounds}: {name} {result.seconds:.2f} s")
            if turn:
                found[name].append(result)
    return found


def show(mode: Mode, found: Mapping[str, list[Result]]) -> None:
    """Print the table and, last, the ratio."""
    say(f"{'':<16}{'clips':>7}{'seconds, median (least to most)':>36}{'CPU s a clip':>15}")
    for name, results in found.items():
        seconds = [result.seconds for result in results]
        span = f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        cpu = median(result.cpu_s_per_clip for result in results)
        say(f"{name:<16}{results[0].num_clips:>7}{span:>36}{cpu:>15.3f}")
    speed = {name: median(r.clips_per_s for r in results) for name, results in found.items()}
    cost = {name: median(r.cpu_s_per_clip for r in results) for name, results in found.items()}
    if "video2dataset" in found:
        ratio = cost["video2dataset"] / cost["ingest"]
        say(f"video2dataset takes {ratio:.2f} times the CPU seconds of ours for a clip")
    scored, synced, plain = (
        speed[ours] / speed[theirs]
        for ours, theirs in (
            ("ingest, scored", "bare loop"),
            ("ingest", "bare, synced"),
            ("ingest", "bare loop"),
        )
    )
    say(
        f"{mode}: with scores against the bare loop {scored:.2f}, against a synced one {synced:.2f}"
    )
    say(f"{mode}: ingest against the bare loop {plain:.2f} (goal at least {GOALS[mode]})")


def _cpu_s() -> float:
    """Return the CPU seconds of all processes of the machine; those that Ray ends tell nobody."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.bench.ingest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mode", choices=list(GOALS), default="remux", help="default remux")
    parser.add_argument("--files", type=int, default=0, help="files of 30 s (default: by mode)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default 3)")
    parser.add_argument("--peer-python", default="", help="Python of an environment with the peer")
    parser.add_argument("--scratch", default="", help="folder for files (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="two tiny files: does it run at all?")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    words = _parser().parse_args(arguments)
    num_files = 2 if words.quick else words.files or _FILES[words.mode]
    kind = footage.Kind(320, 180, num_scenes=2) if words.quick else footage.Kind()
    with tempfile.TemporaryDirectory(dir=words.scratch or None) as folder:
        source = Path(folder, "source")
        paths = footage.make(source, num_files, 3, kind)
        size_mib = sum(path.stat().st_size for path in paths) / 2**20
        say(f"{num_files} files of 30 s, {kind.width}x{kind.height}, {size_mib:.0f} MiB, H.264")
        say(f"{processor()}, {_PROCESSES} processes, commit {commit()}")
        cases: dict[str, Case] = {
            "bare loop": partial(bare, words.mode, False, source),
            "bare, synced": partial(bare, words.mode, True, source),
            "ingest": partial(ours, words.mode, False, source),
            "ingest, scored": partial(ours, words.mode, True, source),
        }
        if words.peer_python and words.mode == "transcode":
            cases["video2dataset"] = partial(peer, words.peer_python, 3, source)
        settings = cluster.ClusterSettings(num_cpus=_PROCESSES, object_store_mib=1024)
        with cluster.running(settings):
            show(words.mode, compare(cases, words.rounds, Path(folder)))
        if words.mode == "transcode" and not words.peer_python:
            sys.stderr.write("video2dataset was not measured: --peer-python is not given\n")


if __name__ == "__main__":
    main()
