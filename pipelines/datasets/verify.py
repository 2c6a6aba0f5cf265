"""Check a dataset: every byte, every row, every release; say by name what is wrong.

Nothing is changed, and nothing is held but the rows of a few shards and the first faults of each
kind. Bytes are read by many threads, shard by shard.
"""

import collections
import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from infra.store import release as releases
from infra.store.check import (
    CHECKED,
    Fault,
    release_faults,
    row_faults,
    shard_faults,
    table_faults,
)
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.schema import TableName
from infra.store.vacuum import orphans
from pipelines.datasets import words
from pipelines.datasets.actions import Answer
from pipelines.datasets.ahead import worked

log = logging.getLogger(__name__)

_REPORT_S = 5.0
_HELD = 1000  # faults of a kind that are told by name
_NAMED = 10  # of them in a text for people
_SHARD_ROWS = 10_000  # clips of a shard that are checked together


class _Findings:
    """Faults by kind, of which the first are kept."""

    def __init__(self) -> None:
        self.nums: dict[str, int] = collections.Counter()
        self.first: dict[str, list[Fault]] = collections.defaultdict(list)

    def add(self, fault: Fault) -> None:
        self.nums[fault.kind] += 1
        if len(self.first[fault.kind]) < _HELD:
            self.first[fault.kind].append(fault)


class _Progress:
    """What was read so far, told now and then."""

    def __init__(self, num_clips: int) -> None:
        self.clips = self.shards = self.size_bytes = 0
        self._num_clips = num_clips
        self._started_s = self._told_s = time.monotonic()

    def add(self, rows: list[dict[str, Any]]) -> None:
        self.shards += 1
        self.clips += len(rows)
        self.size_bytes += sum(row["media_length"] for row in rows)
        now_s = time.monotonic()
        if now_s - self._told_s > _REPORT_S:
            self._told_s = now_s
            rate = self.clips / (now_s - self._started_s)
            left_s = (self._num_clips - self.clips) / rate
            log.info(
                "verify clips=%d/%d MiB=%.0f clips/s=%.1f left_s=%.0f",
                *(self.clips, self._num_clips, self.size_bytes / 2**20, rate, left_s),
            )


def verify(root: str, threads: int, quick: bool) -> Answer:
    """Check all of a dataset; the exit code is 1 where anything is wrong."""
    dataset = Dataset.open(root)
    found = _Findings()
    versions, broken = table_faults(dataset)
    names = releases.names(dataset.root)
    for fault in broken:
        found.add(fault)
    read = _Progress(dataset.rows("clips", versions["clips"]).count_rows())
    for rows, faults in _shards(dataset, versions, threads, quick):
        read.add(rows)
        for fault in faults:
            found.add(fault)
    if not broken:  # else half of the rows would be told to lack the others
        for fault in itertools.chain(
            row_faults(dataset, versions),
            *(release_faults(dataset.root, name) for name in names),
        ):
            found.add(fault)
    num_orphans, orphan_bytes = (0, 0) if broken else orphans(dataset)
    facts = {
        "root": dataset.root,
        "right": not found.nums,
        "quick": quick,
        "num_clips": read.clips,
        "size_bytes": read.size_bytes,
        "num_releases": len(names),
        "num_orphans": num_orphans,
        "orphan_bytes": orphan_bytes,
        "num_faults": dict(found.nums),
        "faults": [asdict(fault) for held in found.first.values() for fault in held],
    }
    return Answer("\n".join(_lines(facts, found)), facts, code=int(bool(found.nums)))


def _shards(
    dataset: Dataset, versions: dict[TableName, int], threads: int, quick: bool
) -> Iterator[tuple[list[dict[str, Any]], list[Fault]]]:
    """Yield the clips of each shard with what is wrong with it."""
    names = ", ".join(CHECKED)
    complete = " AND ".join(f"{name} IS NOT NULL" for name in CHECKED)
    sql = f"SELECT {names} FROM clips WHERE {complete} ORDER BY media_file, media_offset"

    def faults(part: list[dict[str, Any]]) -> list[Fault]:
        return shard_faults(dataset.root, part, quick)

    with query(dataset, sql, versions) as clips:
        yield from worked(faults, _parts(clips), threads)


def _parts(clips: Iterable[pa.RecordBatch]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of one shard at a time; of a large one some at a time."""
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in clips)
    for _, group in itertools.groupby(rows, key=lambda row: row["media_file"]):
        while part := list(itertools.islice(group, _SHARD_ROWS)):
            yield part


def _lines(facts: dict[str, Any], found: _Findings) -> list[str]:
    how = "footers right" if facts["quick"] else "read and right"
    size = words.size(facts["size_bytes"])
    scope = f"{facts['num_clips']} clips, {size}, {facts['num_releases']} releases"
    if not found.nums:
        return [
            f"{facts['root']}: {scope}: {how}; {facts['num_orphans']} media shards that no clip "
            f"refers to ({words.size(facts['orphan_bytes'])}; `snapvideo dataset vacuum`)"
        ]
    total = sum(found.nums.values())
    way_out = "restore the files from a copy, or ingest into a new dataset"
    lines = [f"{facts['root']}: {total} faults in {scope}; {way_out}"]
    for kind, num in sorted(found.nums.items()):
        lines.append(f"{kind}: {num}")
        lines += [
            f"  {words.clean(one.subject)}: {words.clean(one.message, 300)}"
            for one in found.first[kind][:_NAMED]
        ]
    return lines
