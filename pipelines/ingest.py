"""Ingest: source files in, media shards and rows of clips, captions and quarantine out.

The whole graph is `graph`. Media is written before clips, clips before captions, so a kill at any
point leaves at worst bytes that no row refers to; running again skips what is committed and
gives the same rows.

    counts = ingest_partition(root, [file.uri for file in files], IngestSettings(), run_id)
"""

import functools
import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data

from infra.errors import DataError, SnapvideoError
from infra.store.dataset import Dataset
from pipelines.ingest_config import IngestSettings
from pipelines.steps.apart import examine_apart
from pipelines.steps.commit import IngestCounts, Ledger
from pipelines.steps.source import Outcome, examine_all
from pipelines.steps.write import to_fault, to_tables, write_media

log = logging.getLogger(__name__)


def ingest_partition(
    dataset_root: str,
    files: list[str],
    settings: IngestSettings,
    run_id: str,
    code_version: str = "",
) -> IngestCounts:
    """Bring media files into a dataset and return what they gave.

    Args:
        dataset_root: The dataset; laid where there is none.
        files: URIs of media files (see `discover`).
        settings: What is accepted and how it is cut.
        run_id: Recorded with every row.
        code_version: Recorded with every clip.

    Raises:
        DataError: Too many files are refused (`max_refused_share`), or the disk is full.
    """
    dataset = Dataset.open(dataset_root, create=True)
    log.info("ingest files=%d dataset=%s", len(files), dataset.root)
    stamp = {"run_id": run_id, "code_version": code_version}
    ledger = Ledger(dataset, settings, stamp, len(files))
    for block in _blocks(graph(dataset, files, ledger.known, settings)):
        ledger.add(block)
    counts = ledger.finish()
    _check_share(counts, settings)
    return counts


def graph(
    dataset: Dataset, files: list[str], known: frozenset[str], settings: IngestSettings
) -> ray.data.Dataset:
    """Return the lazy graph from files to rows that are ready to be committed, in file order."""
    held = ray.put(known)
    num_tasks = -(-len(files) // settings.files_per_task)
    rows: Any = ray.data.from_items(sorted(files), override_num_blocks=max(1, num_tasks))
    rows = rows.map_batches(  # 1 file -> its clips with their bytes, or why there are none
        cut_files, fn_args=(held, settings), batch_size=None, batch_format="pyarrow"
    )
    rows = rows.map_batches(  # 1 -> 1: bytes go to a shard, one a block
        write_media, fn_args=(dataset.root,), batch_size=None, batch_format="pyarrow"
    )
    rows.context.execution_options.preserve_order = True
    found: ray.data.Dataset = rows
    return found


def cut_files(
    batch: pa.Table, held: "ray.ObjectRef[frozenset[str]]", settings: IngestSettings
) -> Iterator[pa.Table]:
    """Yield clips or refusals of each file of a batch; decoding happens in another process."""
    work = functools.partial(_examine_held, held, settings)
    uris = [str(uri) for uri in batch["item"].to_pylist()]
    try:
        yield from to_tables(examine_apart(uris, work, settings.file_timeout_s))
    except SnapvideoError as fault:
        yield to_fault(fault)


def _examine_held(
    held: "ray.ObjectRef[frozenset[str]]", settings: IngestSettings, uris: list[str]
) -> Iterator[Outcome]:
    return examine_all(uris, ray.get(held), settings)


def _blocks(rows: ray.data.Dataset) -> Iterator[pa.Table]:
    """Yield finished blocks; a fault that a task met outside of the files is raised here."""
    for block in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(block, pa.Table)
        faults = block["fault"].drop_null()
        if len(faults):
            raise DataError(str(faults[0]))
        yield block


def _check_share(counts: IngestCounts, settings: IngestSettings) -> None:
    share = counts.num_refused / max(1, counts.num_files)
    if share > settings.max_refused_share or not counts.num_clips:
        reasons = ", ".join(f"{reason} {num}" for reason, num in counts.by_reason.items())
        raise DataError(
            f"ingest: {counts.num_refused} of {counts.num_files} files are refused ({reasons}); at "
            f"most {settings.max_refused_share:.0%} may be (ingest.max_refused_share), and a clip "
            "must remain; the table `quarantine` of the dataset tells each"
        )
