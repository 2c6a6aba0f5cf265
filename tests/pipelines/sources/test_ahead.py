"""Readers at once: the order is kept, faults arrive, nobody is left running."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import DataError
from pipelines.sources import ahead
from pipelines.sources.ahead import in_order
from pipelines.sources.entry import SourceEntry


def entry(name):
    return SourceEntry(str(name), "root", "1", str(name))


def reader(*names, wait_s=0.0, fault=None):
    def read():
        for name in names:
            time.sleep(wait_s)
            yield entry(name)
        if fault:
            raise fault

    return read


def uris(parts, parallel=4):
    return [found.uri for found in in_order(parts, parallel)]


_PARTS = st.lists(st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=5)))


@settings(max_examples=50, deadline=None)
@given(_PARTS, st.integers(1, 4))
def test_the_order_is_that_of_reading_one_after_the_other(parts, parallel):
    given_parts = [reader(*p) if isinstance(p, list) else entry(p) for p in parts]
    expected = [str(n) for p in parts for n in (p if isinstance(p, list) else [p])]
    assert uris(given_parts, parallel) == expected


def test_slow_readers_run_at_once():
    started = time.monotonic()
    found = uris([reader(n, wait_s=0.3) for n in range(8)], parallel=8)
    assert found == [str(n) for n in range(8)]
    assert time.monotonic() - started < 1.5


def test_a_fault_comes_after_what_was_read_before_it():
    found = in_order([entry("a"), reader("b", fault=DataError("torn")), entry("c")], 2)
    assert [next(found).uri, next(found).uri] == ["a", "b"]
    with pytest.raises(DataError, match="torn"):
        next(found)


def test_readers_end_when_nobody_wants_the_rest(monkeypatch):
    monkeypatch.setattr(ahead, "_MOST_HELD", 3)
    before = threading.active_count()
    found = in_order([reader(*range(1000)) for _ in range(4)], 4)
    assert next(found).uri == "0"
    found.close()
    assert threading.active_count() == before


def test_a_reader_waits_while_its_queue_is_full(monkeypatch):
    monkeypatch.setattr(ahead, "_MOST_HELD", 3)
    read = []

    def endless():
        for n in range(1000):
            read.append(n)
            yield entry(n)

    found = in_order([entry("first"), endless, reader("z")], 2)
    next(found)
    next(found)
    time.sleep(0.3)
    assert len(read) < 10
    found.close()


def test_a_reader_waits_while_long_texts_are_not_taken(monkeypatch):
    monkeypatch.setattr(ahead, "_MOST_LETTERS", 1000)
    read = []

    def long():
        for n in range(50):
            read.append(n)
            yield SourceEntry(str(n), "root", "1", str(n), caption="x" * 300, metadata="y" * 200)

    found = in_order([long, reader("z")], 2)
    assert next(found).uri == "0"
    time.sleep(0.3)
    assert len(read) < 6
    assert [each.uri for each in found] == [*(str(n) for n in range(1, 50)), "z"]
