"""Timing that a busy machine cannot easily bend: interleaved runs, medians, and the spread.

Every round runs each case once, so that a slow minute falls on all of them alike. A product of two
square matrices, timed in the same rounds, says what the machine could have done at best.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

Case = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of one case over the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.median:9.3f} s ({low:.3f} to {high:.3f})"


def interleaved(
    cases: Mapping[str, Case], rounds: int, device: torch.device, warm_ups: int = 1
) -> dict[str, Times]:
    """Return the times of every case, after rounds that do not count."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-warm_ups, rounds):
        for name, case in cases.items():
            seconds = timed(case, device)
            say(f"  round {turn + 1} of {rounds}: {name} {seconds:.3f} s")
            if turn >= 0:
                found[name].append(seconds)
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def timed(case: Case, device: torch.device) -> float:
    """Return the seconds that a call takes, until the device is done with it."""
    _wait(device)
    begun = time.perf_counter()
    case()
    _wait(device)
    return time.perf_counter() - begun


def matmul(device: torch.device, kind: torch.dtype, side: int) -> tuple[Case, int]:
    """Return a product of two square matrices, four times over, and its FLOPs."""
    left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    out, times = torch.empty_like(left), 4

    def product() -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)

    return product, times * 2 * side**3


def machine(device: torch.device) -> str:
    """Return processor or accelerator, threads and versions, for the line above a table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"


def commit() -> str:
    """Return the commit of this checkout, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no git checkout"
    return done.stdout.strip()


def say(line: str = "") -> None:
    """Print a line at once; what is only progress starts with two spaces and goes to stderr."""
    stream = sys.stderr if line.startswith("  round") else sys.stdout
    stream.write(line + "\n")
    stream.flush()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def processor() -> str:
    """Return the name of the processor and how many cores it has."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return platform.processor() or platform.machine()
