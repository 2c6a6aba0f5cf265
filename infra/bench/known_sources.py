"""How long a rerun with nothing new takes, and how much memory, over ever more known sources.

    python -m infra.bench.known_sources [--quick]

A dataset gets a `sources` row for each of 10,000, 100,000 and 1,000,000 made-up files. Then a
fresh process lists the same files (an iterator in place of a store's listing), spools and plans
them as every run does, and finds that there is nothing to do. Seconds are by the clock and of
the processors, which others on the machine cannot bend; peaks are of the whole process, beside
what the imports alone take. Then the same over real files in a folder, and last the growth.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from infra.bench import fresh
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
    cpu_s: float
    imports_mib: float
    peak_mib: float

    @property
    def seconds(self) -> float:
        """Listing, spooling and planning."""
        return self.list_s + self.plan_s

    @property
    def line(self) -> str:
        """A row of the table."""
        return (
            f"{self.num_files:>11,} {self.list_s:>14.2f} {self.plan_s:>10.2f} {self.cpu_s:>10.2f} "
            f"{self.imports_mib:>13.0f} {self.peak_mib:>10.0f}"
        )


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
    imports_mib = fresh.peak_mib()
    with tempfile.TemporaryDirectory() as scratch:
        started, started_cpu = time.perf_counter(), time.process_time()
        listing = spool(entries, Path(scratch, "listing.parquet"), source_root)
        listed = time.perf_counter()
        found = plan(Dataset.open(root), listing, _IDS, out=Path(scratch, "plan.parquet"))
        planned = time.perf_counter()
    todo = found.num_files + found.counts["vanished"]
    seconds = (listed - started, planned - listed, time.process_time() - started_cpu)
    return Cost(listing.num_files, todo, *seconds, imports_mib, fresh.peak_mib())


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
        cost = measure(root, what if is_folder else _ROOT, entries)
        sys.stdout.write(json.dumps(cost.__dict__) + "\n")
        return
    from infra.bench.timing import commit, say  # imports torch, which is not to be measured

    sizes = (1000, 2000, 4000) if given.quick else (10_000, 100_000, 1_000_000)
    say(f"a rerun with nothing new; commit {commit()}")
    say("    sources   list+spool s     plan s      CPU s   imports MiB   peak MiB")
    costs = []
    for num_files in sizes:
        costs.append(_made_up_cost(num_files))
        say(costs[-1].line)
    say(f"real files in a folder, listed by the ingest's own code\n{_folder_cost(sizes[0]).line}")
    for less, more in itertools.pairwise(costs):
        say(_growth(less, more))


def _made_up_cost(num_files: int) -> Cost:
    with tempfile.TemporaryDirectory() as root:
        know(Dataset.open(root, create=True), made_up(num_files), _ROOT)
        return _measured(root, str(num_files))


def _folder_cost(num_files: int) -> Cost:
    """Return the cost over real, empty files; media is not opened, so its size does not count."""
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as folder:
        for n in range(num_files):
            place = Path(folder, f"day-{n // 1000:04}")
            place.mkdir(exist_ok=True)
            (place / f"clip-{n:08}.mp4").touch()
        dataset = Dataset.open(root, create=True)
        know(dataset, list_sources(folder, SourceSettings()), folder)
        return _measured(root, folder)


def _measured(root: str, sources: str) -> Cost:
    """Measure in a fresh process."""
    cost = Cost(**fresh.run(_MODULE, "--measure", root, sources))
    assert cost.num_todo == 0, "there was nothing new"
    return cost


def _growth(less: Cost, more: Cost) -> str:
    return (
        f"{more.num_files / less.num_files:.0f}x the sources ({less.num_files:,} to "
        f"{more.num_files:,}): {more.seconds / less.seconds:.1f}x the seconds, "
        f"{more.cpu_s / less.cpu_s:.1f}x the CPU seconds, "
        f"{more.peak_mib / less.peak_mib:.2f}x the memory"
    )


if __name__ == "__main__":
    main()
