"""Look at a source before anything runs: what it holds, and what of it is new.

The plan is a join of a listing with what is known; no media is opened. Its partitions get a digest
each, by which `lineage` knows what has been done already.

    with prepared(root, "s3://bucket/raw", SourceSettings(), IngestSettings()) as found:
        found.plan.counts, found.digests
"""

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra import storage
from infra.store.dataset import Dataset
from infra.store.query import query
from pipelines.ingest_config import IngestSettings
from pipelines.refresh_config import RefreshSettings
from pipelines.sources.config import SourceSettings
from pipelines.sources.listing import list_sources, source_root
from pipelines.sources.plan import IngestIds, Plan, plan
from pipelines.sources.spool import Listing, spool

log = logging.getLogger(__name__)

_ROWS = 'SELECT "partition" AS part, count(*) AS num FROM sources WHERE source_root = ? GROUP BY 1'


@dataclass(frozen=True)
class Prepared:
    """A source as it is, against what a dataset knows of it; files that live as long as the block.

    Two runs that find a partition as it is and leave it as it is give it one digest: it holds the
    rows of the table `sources` that there are and those that are to come. So a file that went and
    came back, or one that is tried once more, makes another digest though the listing is the same.
    """

    source_root: str
    plan: Plan
    digests: Mapping[str, str]
    """By partition; also those of which everything has vanished."""


@contextlib.contextmanager
def prepared(
    dataset_root: str,
    source: str,
    sources: SourceSettings,
    settings: IngestSettings,
    refresh: RefreshSettings = RefreshSettings(),  # noqa: B008 - frozen
) -> Iterator[Prepared]:
    """Give what a source holds and what is to be done about it.

    Args:
        dataset_root: A dataset, or where one will be laid.
        source: Address of the source.
        sources: How it is listed.
        settings: How it would be treated.
        refresh: Which partitions are looked at, and whether refused files are tried again.

    Raises:
        ConfigError, DataError, ServiceError: See `list_sources` and `plan`.
    """
    root = source_root(source)
    dataset = _dataset(dataset_root)
    ids = IngestIds(settings.ingest_id, settings.transform_id)
    with tempfile.TemporaryDirectory(prefix="snapvideo-plan-") as scratch:
        entries = list_sources(source, sources, settings.accept.suffixes)
        listing = spool(entries, Path(scratch, "listing.parquet"), root)
        found = plan(
            dataset,
            listing,
            ids,
            refresh.partitions,
            out=Path(scratch, "plan.parquet"),
            files_per_task=settings.files_per_task,
            max_attempts=sources.max_attempts if refresh.retry else 0,
        )
        yield Prepared(root, found, _digests(dataset, listing, found, refresh.partitions))


def _dataset(root: str) -> Dataset:
    """Return a dataset that is only read; one that is not laid yet has empty tables."""
    laid = storage.exists(storage.join(storage.absolute(root), "dataset.json"))
    return Dataset.open(root) if laid else Dataset(storage.absolute(root))


def _digests(
    dataset: Dataset, listing: Listing, found: Plan, partitions: tuple[str, ...]
) -> dict[str, str]:
    with query(dataset, _ROWS, parameters=[listing.source_root]) as rows:
        written = {str(row["part"]): int(row["num"]) for row in rows.read_all().to_pylist()}
    names = partitions or sorted({*listing.partitions, *written})
    return {name: _digest(name, written.get(name, 0), listing, found) for name in names}


def _digest(name: str, num_written: int, listing: Listing, found: Plan) -> str:
    facts = listing.partitions.get(name)
    tallies = found.partitions.get(name, {})
    coming = sum(tally.num_files for why, tally in tallies.items() if why != "unchanged")
    words = f"{facts.digest if facts else 'gone'} {num_written + coming}"
    return hashlib.sha256(words.encode()).hexdigest()[:16]
