"""Measurements in a process of its own, whose memory nothing else has touched.

A benchmark that calls `run` starts itself again with words that make it measure and print one line
of JSON. It imports little before that, since imports count.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(module: str, *words: str) -> dict[str, Any]:
    """Run a module and return the JSON of the last line that it prints."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mib() -> float:
    """Return this program's peak; what `getrusage` tells starts at that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
