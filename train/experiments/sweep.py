"""Many runs over a few processes, each kept as a file, so that a killed sweep goes on.

    DIR/<variant>-<seed>-<digest>.json     figures of one run, with its budget, commit and machine
    DIR/<variant>-<seed>-<digest>.png      a few of its samples: a clip a row, its frames beside

The digest is of the variant and the budget: a result is used again only by the run it came from.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra import logs
from infra.errors import DataError
from infra.provenance import code_version
from infra.video import encode_image
from train.experiments import trial
from train.experiments.claims import Variant
from train.experiments.measures import Floats
from train.experiments.training import Budget

log = logging.getLogger(__name__)

_FORMAT = 1
_ENLARGED = 3
_NICE = 5


@dataclass(frozen=True)
class Job:
    """One run and the file that holds what came of it."""

    variant: Variant
    seed: int
    budget: Budget
    folder: Path

    @property
    def path(self) -> Path:
        """The file of figures."""
        facts = {"variant": asdict(self.variant), "budget": asdict(self.budget), "format": _FORMAT}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
        return self.folder / f"{self.variant.name}-{self.seed}-{digest}.json"


def jobs(variants: Sequence[Variant], seeds: int, budget: Budget, folder: Path) -> list[Job]:
    """Return one job for every variant and seed, seed by seed, so that early results compare."""
    return [Job(v, seed, budget, folder) for seed in range(seeds) for v in variants]


def sweep(todo: Sequence[Job], processes: int) -> None:
    """Make every run whose file is missing; what is done already stays.

    Raises:
        DataError: The folder cannot be written.
    """
    left = [job for job in todo if not job.path.exists()]
    log.info("runs=%d done=%d left=%d", len(todo), len(todo) - len(left), len(left))
    if not left:
        return
    _check_writable(left[0].folder)
    begun = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        pending = {pool.submit(make, job) for job in left}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                finished = len(left) - len(pending)
                left_s = (time.perf_counter() - begun) / finished * len(pending)
                log.info("runs done=%d left=%d left_s=%.0f", finished, len(pending), left_s)
        finally:
            if pending:  # a run failed, or Ctrl-C
                _give_up(pool)


def read(job: Job) -> dict[str, Any] | None:
    """Return what a run gave, or None where it was not made yet.

    Raises:
        DataError: The file is not one that a sweep wrote.
    """
    try:
        row = json.loads(job.path.read_text())
        _ = row["measures"], row["train_s"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(f"{job.path}: not the result of a run ({fault}); delete it") from fault
    return dict(row)


def make(job: Job) -> None:
    """Make one run; its file appears whole or not at all."""
    outcome, clips = trial.run(job.variant, job.seed, job.budget)
    row = {
        "variant": job.variant.name,
        "seed": job.seed,
        "budget": asdict(job.budget),
        "commit": code_version(),
        "machine": _machine(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        **asdict(outcome),
    }
    _replace(job.path.with_suffix(".png"), encode_image(_strip(clips)))
    _replace(job.path, json.dumps(row, indent=1).encode())


def _machine() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _strip(clips: Floats) -> NDArray[np.uint8]:
    """Return clips [n, 3, t, h, w] as one picture [h, w, 3]: a clip a row, its frames beside."""
    pixels = np.rint((clips + 1) * 127.5).astype(np.uint8)
    pixels = pixels.repeat(_ENLARGED, 3).repeat(_ENLARGED, 4)
    rows = np.pad(pixels, [(0, 0), (0, 0), (0, 0), (0, 2), (0, 2)], constant_values=255)
    n, _, t, h, w = rows.shape
    return rows.transpose(0, 3, 2, 4, 1).reshape(n * h, t * w, 3)


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    scratch.replace(path)


def _give_up(pool: ProcessPoolExecutor) -> None:
    """End the runs under way, which leaving the pool would wait for."""
    pool.shutdown(wait=False, cancel_futures=True)
    for child in multiprocessing.active_children():
        child.terminate()


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / ".writable", b"")
    except OSError as fault:
        raise DataError(
            f"--out {folder}: cannot be written ({fault.strerror}); choose another folder"
        ) from fault


def _start_worker() -> None:
    """Log as the command does, give way to others, and end when the command is gone."""
    logs.setup()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's to act on
    os.nice(max(0, _NICE - os.nice(0)))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
