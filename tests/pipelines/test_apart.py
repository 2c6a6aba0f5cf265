"""Work in another process: crashes, hangs and faults are laid to the right file."""

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from infra.errors import ServiceError
from pipelines.sources.entry import SourceEntry
from pipelines.steps.apart import Limits, examine_apart
from pipelines.steps.source import MadeClip, Outcome, Planned


def misbehave(planned):
    """Do what the name of each file says."""
    for one in planned:
        uri = one.entry.uri
        if uri.startswith("dies once "):
            note = Path(uri.removeprefix("dies once "))
            if not note.exists():
                note.touch()
                os.abort()
        if uri.startswith("clips "):
            yield from (MadeClip({"clip_id": name}, b"", {}) for name in uri.split()[1:])
        if uri.startswith("dies in "):
            with Path(uri.removeprefix("dies in ")).open("a") as deaths:
                deaths.write("x")
            os.abort()
        if uri.startswith("hangs "):
            Path(uri.removeprefix("hangs ")).write_text(str(os.getpid()))
            time.sleep(600)
        if uri == "breaks":
            raise ZeroDivisionError(uri)
        if uri == "storage":
            raise ServiceError("s3://bucket: does not answer")
        yield Outcome(one, source_id="fine")


def planned(names):
    return [Planned(SourceEntry(name, "p", "1", name)) for name in names]


def reasons(names, timeout_s=60.0):
    answers = list(examine_apart(planned(names), misbehave, Limits(timeout_s)))
    found = [one for one in answers if isinstance(one, Outcome)]
    assert [outcome.uri for outcome in found] == names
    return [one.refusals[0].reason if one.refusals else one.source_id for one in found]


def test_a_crash_costs_one_file_after_three_tries(ray_local, tmp_path):
    deaths = tmp_path / "deaths"
    names = ["a", f"dies in {deaths}", "b", "breaks", "c"]
    assert reasons(names) == ["fine", "crashed"] * 2 + ["fine"]
    assert deaths.read_text() == "xxx"


def test_a_death_that_does_not_come_again_costs_nothing(ray_local, tmp_path):
    names = ["a", f"dies once {tmp_path / 'note'}", "b"]
    assert reasons(names) == ["fine"] * 3


def test_clips_come_before_their_outcome(ray_local):
    found = list(examine_apart(planned(["clips x y", "a"]), misbehave, Limits(60.0)))
    kinds = [one.row["clip_id"] if isinstance(one, MadeClip) else one.uri for one in found]
    assert kinds == ["x", "y", "clips x y", "a"]


def test_a_hang_costs_one_file_and_its_process_ends(ray_local, tmp_path):
    note = tmp_path / "pid"
    assert reasons(["a", f"hangs {note}", "b"], timeout_s=3.0) == ["fine", "timeout", "fine"]
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(note.read_text())).wait(timeout=30)


def test_storage_that_is_down_stops_the_run(ray_local):
    with pytest.raises(ServiceError, match="does not answer"):
        reasons(["a", "storage", "b"])
