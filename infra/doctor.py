"""Doctor: look at the machine and say what is missing and how to mend it.

Every check is a plain function that returns one `Finding`; nothing is changed or left behind.
"""

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from infra import storage
from infra.errors import SnapvideoError

Verdict = Literal["ok", "note", "missing"]

_PACKAGES = {
    "ray": "core",
    "torch": "core",
    "pyarrow": "core",
    "mlflow": "core",
    "boto3": "core",
    "av": "data",
    "deltalake": "data",
    "transformers": "caption",
    "deepspeed": "train",
    "fastapi": "serve",
}
_MIN_DISK_GIB = 5.0
_MIN_MEMORY_GIB = 6.0


@dataclass(frozen=True)
class Finding:
    """What one check saw; `mend` says what to do where it is not ok."""

    name: str
    verdict: Verdict
    seen: str
    mend: str = ""


def examine(ports: dict[str, int], uris: dict[str, str], num_gpus: int) -> list[Finding]:
    """Return every finding about this machine.

    Args:
        ports: Setting name to the TCP port it wants on loopback.
        uris: Setting name to a URI that must be writable; S3 is reached for real.
        num_gpus: GPUs that the settings ask for.
    """
    findings = [python_version(), packages(), compiler(), gpus(num_gpus), memory()]
    findings += [port(name, number) for name, number in ports.items()]
    findings += [place(name, uri) for name, uri in uris.items() if uri]
    return findings


def render(findings: Sequence[Finding]) -> str:
    """Return the findings as lines, what is missing with its mend below it."""
    mark = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{mark[finding.verdict]}  {finding.name:<{width}}  {finding.seen}")
        if finding.mend:
            lines.append(f"{'':9}{'':<{width}}  -> {finding.mend}")
    missing = sum(finding.verdict == "missing" for finding in findings)
    return "\n".join([*lines, "", f"{missing} missing" if missing else "nothing is missing"])


def python_version() -> Finding:
    """Name the interpreter; pip has refused one that is too old."""
    return Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def packages() -> Finding:
    """Every stage's packages must be importable."""
    lost = {name: extra for name, extra in _PACKAGES.items() if not importlib.util.find_spec(name)}
    if not lost:
        return Finding("packages", "ok", f"{len(_PACKAGES)} of {len(_PACKAGES)}")
    extras = ",".join(sorted(set(lost.values()) - {"core"}))
    mend = f"pip install -e '.[{extras}]'" if extras else "pip install -e ."
    return Finding("packages", "missing", f"not found: {', '.join(lost)}", mend)


def compiler() -> Finding:
    """A compiler is a convenience: DeepSpeed's compiled ops stay off without one."""
    found = [name for name in ("g++", "c++", "ninja", "nvcc") if shutil.which(name)]
    if {"g++", "c++"} & set(found):
        return Finding("compiler", "ok", ", ".join(found))
    mend = "not needed; for DeepSpeed's compiled ops install g++ and ninja"
    return Finding("compiler", "note", "no C++ compiler", mend)


def gpus(wanted: int) -> Finding:
    """As many GPUs as the settings ask for must be there."""
    if not importlib.util.find_spec("torch"):
        return Finding("gpu", "missing", "torch is not installed", "pip install -e .")
    import torch

    count = torch.cuda.device_count()
    seen = f"{count} found, torch {torch.__version__}"
    if count < wanted:
        mend = (
            f"cluster.num_gpus asks for {wanted}: set {count}, or install the CUDA build of torch"
        )
        return Finding("gpu", "missing", seen, mend)
    mend = "" if count else "everything runs on the CPU; training real sizes needs GPUs"
    return Finding("gpu", "ok" if count else "note", seen, mend)


def memory() -> Finding:
    """A few GiB of memory must be free for the demo."""
    free_gib = psutil.virtual_memory().available / 2**30
    seen = f"{free_gib:.1f} GiB free, {psutil.cpu_count()} cores"
    if free_gib >= _MIN_MEMORY_GIB:
        return Finding("memory", "ok", seen)
    return Finding("memory", "note", seen, f"the demo wants about {_MIN_MEMORY_GIB:.0f} GiB")


def port(name: str, number: int) -> Finding:
    """The port must be free on loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as fault:
            mend = f"set --{name} to a free port, or end what listens on {number}"
            return Finding(name, "missing", f"{number}: {fault.strerror}", mend)
    return Finding(name, "ok", f"{number} is free")


def place(name: str, uri: str) -> Finding:
    """The place must be writable: a disk with room, or an S3 store that honours commits."""
    if storage.is_s3(uri):
        return _s3(name, uri)
    folder = storage.local_path(uri).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as fault:
        return Finding(name, "missing", f"{folder}: {fault.strerror}", f"set --{name} elsewhere")
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < _MIN_DISK_GIB:
        mend = f"free some; the demo and its environment want {_MIN_DISK_GIB:.0f} GiB"
        return Finding(name, "missing", f"{free_gib:.1f} GiB free at {folder}", mend)
    return Finding(name, "ok", f"{free_gib:.0f} GiB free at {Path(folder)}")


def _s3(name: str, uri: str) -> Finding:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "AWS")
    try:
        storage.check_conditional_put(uri)
    except SnapvideoError as fault:
        mend = "check the bucket, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        return Finding(name, "missing", f"{fault}", mend)
    return Finding(name, "ok", f"{uri} at {endpoint} is writable and honours exclusive puts")
