"""The benchmark of near doubles runs, and finds those that it made up."""

import contextlib
import io

from infra.bench import near_doubles


def test_every_tenth_clip_is_found_once():
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        near_doubles.main(["--clips", "1000"])
    rows = [line.split() for line in screen.getvalue().splitlines()[2:]]
    assert [row[:3] for row in rows] == [["1,000", "1,000", "100"], ["1,001", "1", "0"]]
    assert all(0 < float(row[5]) <= float(row[6]) for row in rows)
