"""A listing on disk: every entry once listed, in a Parquet file, with a digest of each partition.

Nothing of it stays in memory but one batch and a number per partition.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from infra.errors import DataError
from pipelines.sources.ahead import num_letters
from pipelines.sources.entry import ENTRIES, SourceEntry, to_table

log = logging.getLogger(__name__)

_BATCH = 8192
_BATCH_LETTERS = 32 << 20  # of what is said in one batch
_MOST_PARTITIONS = 100_000


@dataclass(frozen=True)
class PartitionFacts:
    """What a partition holds."""

    digest: str
    """Changes when an entry comes, goes or changes; not with the order they are listed in."""
    num_files: int
    size_bytes: int


@dataclass(frozen=True)
class Listing:
    """A source as it was listed."""

    path: Path
    """Parquet, columns `ENTRIES`."""
    source_root: str
    partitions: dict[str, PartitionFacts]
    sorted_by_uri: bool
    """Whether URIs rise, so that each is there once."""

    @property
    def num_files(self) -> int:
        """How many entries there are."""
        return sum(facts.num_files for facts in self.partitions.values())


@dataclass
class _Sums:
    digest: int = 0
    num_files: int = 0
    size_bytes: int = 0


def spool(entries: Iterable[SourceEntry], path: Path, source_root: str) -> Listing:
    """Write entries to a Parquet file and return what they are.

    Args:
        entries: What `list_sources` yields.
        path: Where the file shall lie.
        source_root: What was listed (see `listing.source_root`).

    Raises:
        DataError: There are too many partitions.
    """
    sums: dict[str, _Sums] = {}
    rises, last = True, ""
    with pq.ParquetWriter(path, ENTRIES, compression="zstd") as writer:
        for batch in _batches(entries):
            writer.write_table(to_table(batch))
            for entry in batch:
                rises, last = rises and entry.uri > last, entry.uri
                _add(sums.setdefault(entry.partition, _Sums()), entry)
            _check_partitions(sums, source_root)
    facts = {name: _facts(found) for name, found in sorted(sums.items())}
    listing = Listing(path, source_root, facts, rises)
    log.info("listed files=%d partitions=%d source=%s", listing.num_files, len(facts), source_root)
    return listing


def _batches(entries: Iterable[SourceEntry]) -> Iterator[list[SourceEntry]]:
    batch: list[SourceEntry] = []
    letters = 0
    for entry in entries:
        batch.append(entry)
        letters += num_letters(entry)
        if len(batch) >= _BATCH or letters >= _BATCH_LETTERS:
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch


def _add(sums: _Sums, entry: SourceEntry) -> None:
    words = (entry.uri, entry.stamp, entry.caption_stamp, entry.refusal)
    text = "\0".join(words).encode()
    sums.digest += int.from_bytes(hashlib.sha256(text).digest())
    sums.num_files += 1
    sums.size_bytes += max(0, entry.size_bytes)


def _facts(sums: _Sums) -> PartitionFacts:
    words = f"{sums.digest % 2**256:x} {sums.num_files}"
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    return PartitionFacts(digest, sums.num_files, sums.size_bytes)


def _check_partitions(sums: dict[str, _Sums], source_root: str) -> None:
    if len(sums) > _MOST_PARTITIONS:
        raise DataError(
            f"source {source_root}: more than {_MOST_PARTITIONS} partitions, such as "
            f"'{next(iter(sums))}'; group them otherwise (setting sources.partition_by: shard)"
        )
