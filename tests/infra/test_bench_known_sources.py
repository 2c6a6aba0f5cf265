"""The benchmark of reruns with nothing new runs and prints what it promises."""

import contextlib
import io
import re

import pytest

from infra.bench import known_sources


@pytest.fixture(scope="module")
def lines():
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        known_sources.main(["--quick"])
    return screen.getvalue().splitlines()


def test_every_size_is_measured(lines):
    rows = [line.split() for line in lines if re.match(r" +[\d,]+ +[\d.]+ ", line)]
    assert [row[0] for row in rows] == ["1,000", "2,000", "4,000", "1,000"]
    assert all(0 < float(row[4]) <= float(row[5]) for row in rows)


def test_the_growth_comes_last(lines):
    growth = re.compile(
        r"2x the sources .*: [\d.]+x the seconds, [\d.]+x the CPU seconds, [\d.]+x the memory"
    )
    assert all(growth.fullmatch(line) for line in lines[-2:])


def test_what_is_made_up_comes_sorted_and_is_not_held():
    names = [entry.uri for entry in known_sources.made_up(25_000)]
    assert names == sorted(set(names))
    assert len({entry.partition for entry in known_sources.made_up(25_000)}) == 3
