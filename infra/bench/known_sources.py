"""How long a rerun with nothing new takes, and how much memory, over ever more known sources.

    python -m infra.bench.known_sources [--quick]

A dataset gets a `sources` row for each of 10,000, 100,000 and 1,000,000 made-up files. Then a
fresh process lists the same files (an iterator in place of a store's listing), spools and plans
them as every run does, and finds that there is nothing to do. Peaks are of the whole process;
what the imports alone take is shown beside. Last, the same over real files in a folder.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from infra.bench.timing import commit, say
from infra.store.dataset import Dataset
from infra.store.schema import SOURCES
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import SourceEntry
from pipelines.sources.listing import list_sources
from pipelines.sources.plan import IngestIds, plan
from pipelines.sources.spool import spool

_ROOT = "s3://bucket/videos"
_IDS = IngestIds("rules", "cut")
_PER_FOLDER = 10_000
_PER_COMMIT = 50_000
_MODULE = "infra.bench.known_sources"


@dataclass(frozen=True)
class Cost:
    """What a rerun took."""

    num_files: int
    num_todo: int
    list_s: float
    plan_s: float
    imports_mib: float
    peak_mib: float

    @property
    def seconds(self) -> float:
        """Listing, spooling and planning."""
        return self.list_s + self.plan_s


def made_up(num_files: int) -> Iterator[SourceEntry]:
    """Yield entries as a listing of S3 would give them, sorted by name."""
    for n in range(num_files):
        part = f"day-{n // _PER_FOLDER:04}"
        uri = f"{_ROOT}/{part}/camera-{n % _PER_FOLDER // 1000}/clip-{n:08}.mp4"
        yield SourceEntry(uri, part, f"{1_000_000 + n} {n:032x}", uri, size_bytes=1_000_000 + n)


def know(dataset: Dataset, entries: Iterator[SourceEntry], source_root: str) -> None:
    """Write what an ingest of these entries would have left in the table `sources`."""
    rows: list[dict[str, object]] = []
    for entry in entries:
        rows.append(_row(entry, source_root))
        if len(rows) == _PER_COMMIT:
            dataset.append("sources", pa.Table.from_pylist(rows, SOURCES))
            rows = []
    if rows:
        dataset.append("sources", pa.Table.from_pylist(rows, SOURCES))


def _row(entry: SourceEntry, source_root: str) -> dict[str, object]:
    return {
        "source_uri": entry.uri,
        "source_root": source_root,
        "partition": entry.partition,
        "stamp": entry.stamp,
        "caption_stamp": entry.caption_stamp,
        "source_id": f"{hash(entry.uri) & 0xFFFFFFFF:064x}",
        "status": "ok",
        "retryable": False,
        "attempts": 1,
        "ingest_id": _IDS.ingest_id,
        "transform_id": _IDS.transform_id,
        "size_bytes": entry.size_bytes,
        "num_clips": 3,
        "run_id": "earlier",
    }


def measure(root: str, source_root: str, entries: Iterator[SourceEntry]) -> Cost:
    """Return what finding out takes that nothing is new."""
    imports_mib = _peak_mib()
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        listing = spool(entries, Path(scratch, "listing.parquet"), source_root)
        listed = time.perf_counter()
        found = plan(Dataset.open(root), listing, _IDS, out=Path(scratch, "plan.parquet"))
        planned = time.perf_counter()
    todo = found.num_files + found.counts["vanished"]
    seconds = (listed - started, planned - listed)
    return Cost(listing.num_files, todo, *seconds, imports_mib, _peak_mib())


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark, or one measurement in a process of its own."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000, 2,000 and 4,000 sources")
    parser.add_argument("--measure", nargs=2, metavar=("DATASET", "SOURCES"), help="internal")
    given = parser.parse_args(args)
    if given.measure:
        root, what = given.measure
        is_folder = not what.isdigit()
        entries = list_sources(what, SourceSettings()) if is_folder else made_up(int(what))
        say(json.dumps(measure(root, what if is_folder else _ROOT, entries).__dict__))
        return
    sizes = (1000, 2000, 4000) if given.quick else (10_000, 100_000, 1_000_000)
    say(f"a rerun with nothing new; commit {commit()}")
    say("    sources   list+spool s     plan s    files/s   imports MiB   peak MiB")
    costs = [_made_up_cost(num) for num in sizes]
    _folder_cost(sizes[0])
    _growth(costs)


def _made_up_cost(num_files: int) -> Cost:
    with tempfile.TemporaryDirectory() as root:
        know(Dataset.open(root, create=True), made_up(num_files), _ROOT)
        return _told(root, str(num_files))


def _folder_cost(num_files: int) -> Cost:
    """Return the cost over real, empty files; media is not opened, so its size does not count."""
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as folder:
        for n in range(num_files):
            place = Path(folder, f"day-{n // 1000:04}")
            place.mkdir(exist_ok=True)
            (place / f"clip-{n:08}.mp4").touch()
        dataset = Dataset.open(root, create=True)
        know(dataset, list_sources(folder, SourceSettings()), folder)
        say(f"real files in a folder, listed by the ingest's own code: {num_files:,}")
        return _told(root, folder)


def _told(root: str, sources: str) -> Cost:
    """Measure in a fresh process, print a line, and return it."""
    command = [sys.executable, "-m", _MODULE, "--measure", root, sources]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    assert cost.num_todo == 0, "there was nothing new"
    say(
        f"{cost.num_files:>11,} {cost.list_s:>14.2f} {cost.plan_s:>10.2f} "
        f"{cost.num_files / cost.seconds:>10,.0f} {cost.imports_mib:>13.0f} {cost.peak_mib:>10.0f}"
    )
    return cost


def _growth(costs: Sequence[Cost]) -> None:
    for less, more in itertools.pairwise(costs):
        say(
            f"{more.num_files / less.num_files:.0f}x the sources ({less.num_files:,} to "
            f"{more.num_files:,}): {more.seconds / less.seconds:.1f}x the seconds, "
            f"{more.peak_mib / less.peak_mib:.2f}x the memory"
        )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
