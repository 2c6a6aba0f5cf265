"""Join the many small data files of a dataset's tables into few.

Rows and their order stay, so every reader sees the same; earlier versions, which releases pin,
keep their files until `infra.store.vacuum` finds that nothing needs them. Writers may append
meanwhile; two compactions at once disturb each other, and the later one is repeated. Media shards
are not touched. A checkpoint of the log follows, so that opening a table reads few files (the
table library writes one every hundred commits by itself).
"""

import logging
import time
from dataclasses import dataclass

import deltalake
import deltalake.exceptions

from infra import storage
from infra.errors import DataError, ServiceError
from infra.store.commits import WRITER
from infra.store.dataset import Dataset
from infra.store.schema import TableName

log = logging.getLogger(__name__)

_TRIES = 8
_TASKS = 2  # bins that are rewritten at once: memory


@dataclass(frozen=True)
class Compacted:
    """What became of one table; no file where there was nothing to join."""

    table: TableName
    version: int
    num_files_removed: int = 0
    num_files_added: int = 0
    num_files: int = 0
    """Data files that the table has now."""


def compact(dataset: Dataset, table: TableName, target_mib: int = 128) -> Compacted:
    """Join the table's small files into files of about `target_mib`; return what that gave.

    Raises:
        DataError: The disk is full, or a data file is gone.
        ServiceError: S3 does not answer, or others compacted the table again and again.
    """
    if dataset.version(table) < 0:
        return Compacted(table, -1)
    for attempt in range(_TRIES):
        try:
            return _once(dataset, table, target_mib)
        except deltalake.exceptions.CommitFailedError as fault:
            log.info("compaction was overtaken table=%s attempt=%d: %s", table, attempt + 1, fault)
            time.sleep(0.1 * 2**attempt)
        except deltalake.exceptions.DeltaError as fault:
            kind = ServiceError if storage.is_s3(dataset.root) else DataError
            raise kind(
                f"{dataset.uri(table)}: cannot be compacted ({fault}); see `snapvideo dataset "
                "verify`, and check free space and rights"
            ) from fault
    raise ServiceError(
        f"{dataset.uri(table)}: others changed it {_TRIES} times while it was compacted; "
        "run one compaction at a time"
    )


def _once(dataset: Dataset, table: TableName, target_mib: int) -> Compacted:
    options = storage.delta_options(dataset.root)
    found = deltalake.DeltaTable(dataset.uri(table), storage_options=options)
    done = found.optimize.compact(
        target_size=target_mib << 20, max_concurrent_tasks=_TASKS, writer_properties=WRITER
    )
    removed, added = int(done["numFilesRemoved"]), int(done["numFilesAdded"])
    if removed:
        found.create_checkpoint()
    return Compacted(table, found.version(), removed, added, len(found.file_uris()))
