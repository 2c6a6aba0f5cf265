"""The benchmarks of ingest and caption refresh run and print what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def printed(benchmark, *words):
    """Run a benchmark as a person would, in a process and a Ray of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"infra.bench.{benchmark}", "--quick", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["remux"])
def test_the_ingest_is_compared_with_a_bare_loop(mode):
    lines = printed("ingest", "--mode", mode, "--rounds", "1")
    table = [re.split(r"\s{2,}", line) for line in lines]
    clips = {row[0]: row[1] for row in table if len(row) == 4 and row[0]}
    assert set(clips) == {"bare loop", "bare, synced", "ingest", "ingest, scored"}
    assert set(clips.values()) == {"6"}, "all cases cut the same clips"
    last = rf"{mode}: ingest against the bare loop [\d.]+ \(goal at least 0\.\d\)"
    assert re.fullmatch(last, lines[-1])


@pytest.mark.slow
def test_a_refresh_of_few_captions_says_what_it_wrote():
    lines = printed("caption_refresh", "--share", "0.1")
    assert any(re.match(r"refreshed +4 captions, [\d.]+ KiB written", line) for line in lines)
    last = r"bytes written against the dataset: [\d.]+% \(goal at most 0\.1%\)"
    assert re.fullmatch(last, lines[-1])
