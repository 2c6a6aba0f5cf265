"""The status line on a real pseudo-terminal, and in a log."""

import contextlib
import os
import pty
import time

import pytest

from infra.status import Status


@pytest.fixture
def terminal():
    """A terminal to write to, and a reader of what has been written."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)

    def read():
        found = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                time.sleep(0.01)
                found += os.read(ours, 4096)
        return found.decode()

    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        yield stream, read
    os.close(ours)


def test_a_terminal_shows_one_line_that_is_rewritten(terminal):
    stream, read = terminal
    status = Status(stream)
    status.say("step 1")
    time.sleep(0.11)
    status.say("step 2")
    assert read() == "\r\x1b[Kstep 1\r\x1b[Kstep 2"


def test_a_line_is_no_longer_than_the_terminal(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream, read = terminal
    Status(stream).say("x" * 50)
    assert read() == "\r\x1b[K" + "x" * 19


def test_a_cleared_terminal_holds_nothing(terminal):
    stream, read = terminal
    status = Status(stream)
    status.say("step 1")
    status.clear()
    assert read().endswith("step 1\r\x1b[K")


def test_a_log_gets_a_line_every_few_seconds_and_not_one_a_step(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    caplog.set_level("INFO")
    status = Status()
    for step in range(121):
        now[0] = step / 10
        status.say(f"step {step}")
    assert [record.getMessage() for record in caplog.records] == ["step 50", "step 100"]
