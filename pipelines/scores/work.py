"""One pass over stored clips on Ray Data: what is missing is found, worked on, committed by parts.

The clips are found by SQL and lie as Parquet below the dataset's root while the pass runs, so the
driver holds none of them and workers need nothing but the address. A pass that is killed repeats
what was not committed.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data

from infra import storage
from infra.errors import DataError
from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.selection import Selection
from infra.store.work import laid

log = logging.getLogger(__name__)

Row = dict[str, Any]

MEDIA = (
    "clip_id", "kind", "media_sha256", "media_file", "media_row", "media_offset", "media_length",
    "media_crc32c",
)  # fmt: skip
"""Columns of the clips table by which the bytes of a clip are read."""


@dataclass(frozen=True)
class Pass:
    """What one pass did."""

    name: str
    num_missing: int
    num_failed: int
    """Clips that could not be decoded or scored; they are tried again by the next pass."""
    seconds: float


def run_pass(
    dataset: Dataset,
    name: str,
    wanted: tuple[str, Sequence[object]],
    work: Callable[[ray.data.Dataset], ray.data.Dataset],
    commit: Callable[[pa.Table], None],
    clips_per_commit: int,
) -> Pass:
    """Work on the clips that a query finds, and commit what comes out by parts.

    Args:
        dataset: Whose.
        name: Of what is done, for the log.
        wanted: A SELECT of `MEDIA`, and its parameters.
        work: Turns those rows into rows with at least `clip_id` and `error` (empty: none).
        commit: Writes a block of rows without an error.
        clips_per_commit: Rows between two commits.
    """
    started_s, done, failed = time.monotonic(), 0, 0
    with laid(dataset, *wanted) as (folder, num_missing):
        if num_missing:
            files, path = storage.filesystem(folder.rows)
            rows = ray.data.read_parquet(path, filesystem=files)
            rows = rows.repartition(max(1, num_missing // clips_per_commit))
            for block in work(rows).iter_batches(
                batch_size=clips_per_commit, batch_format="pyarrow"
            ):
                assert isinstance(block, pa.Table)
                good = block.filter(pa.array([not e for e in block["error"].to_pylist()]))
                if len(good):
                    commit(good)
                folder.keep()
                done, failed = done + len(block), failed + len(block) - len(good)
                _report(name, done, num_missing, failed, started_s)
    return Pass(name, num_missing, failed, time.monotonic() - started_s)


def check_failed(passes: Sequence[Pass], num_clips: int, max_failed_share: float) -> None:
    """Refuse passes in which too many of all clips failed.

    A few that fail in every run are all that a later run finds missing, so it is the whole that
    they are held against.

    Raises:
        DataError: More than that share did.
    """
    for one in passes:
        if one.num_failed > max_failed_share * num_clips:
            raise DataError(
                f"score {one.name}: {one.num_failed} of {num_clips} clips got no score, more than "
                f"scores.max_failed_share = {max_failed_share}; the log names each; run "
                "`snapvideo dataset verify` to see whether media is gone"
            )


def count_clips(dataset: Dataset, scope: Selection) -> int:
    """Return how many clips a selection takes."""
    chosen, values = selected_sql(scope)
    with query(dataset, f"SELECT count(*) AS num FROM ({chosen})", parameters=values) as rows:
        return int(rows.read_all()["num"][0].as_py())


def _report(name: str, done: int, total: int, failed: int, started_s: float) -> None:
    rate = done / max(time.monotonic() - started_s, 1e-3)
    log.info(
        "score %s clips=%d of=%d failed=%d per_s=%.1f left_s=%.0f",
        *(name, done, total, failed, rate, (total - done) / rate),
    )
