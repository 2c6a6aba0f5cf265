"""Work in another process: crashes, hangs and faults are laid to the right file."""

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from infra.errors import ServiceError
from pipelines.steps.apart import examine_apart
from pipelines.steps.source import Outcome


def misbehave(uris):
    """Do what the name of each file says."""
    for uri in uris:
        if uri == "dies":
            os.abort()
        if uri.startswith("hangs "):
            Path(uri.removeprefix("hangs ")).write_text(str(os.getpid()))
            time.sleep(600)
        if uri == "breaks":
            raise ZeroDivisionError(uri)
        if uri == "storage":
            raise ServiceError("s3://bucket: does not answer")
        yield Outcome(uri, source_id="fine")


def reasons(names, timeout_s=60.0):
    found = list(examine_apart(names, misbehave, timeout_s))
    assert [outcome.uri for outcome in found] == names
    return [one.refusals[0].reason if one.refusals else one.source_id for one in found]


def test_a_crash_costs_one_file(ray_local):
    assert reasons(["a", "dies", "b", "breaks", "c"]) == ["fine", "crashed"] * 2 + ["fine"]


def test_a_hang_costs_one_file_and_its_process_ends(ray_local, tmp_path):
    note = tmp_path / "pid"
    assert reasons(["a", f"hangs {note}", "b"], timeout_s=3.0) == ["fine", "timeout", "fine"]
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(note.read_text())).wait(timeout=30)


def test_storage_that_is_down_stops_the_run(ray_local):
    with pytest.raises(ServiceError, match="does not answer"):
        reasons(["a", "storage", "b"])
