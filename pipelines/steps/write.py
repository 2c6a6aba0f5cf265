"""Write clips into media shards and lay out what the tables will hold.

Rows travel between the steps as Arrow tables: one row a clip, with its bytes, or one row for a
file that gives none.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from infra.errors import SnapvideoError
from infra.store.dataset import Dataset
from infra.store.media import write_shard
from infra.store.schema import CLIPS
from pipelines.steps.source import Outcome

_REFUSAL: pa.DataType = pa.struct(
    [
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("retryable", pa.bool_()),
    ]
)
_OUTCOME: dict[str, pa.DataType] = {
    "source_uri": pa.string(),
    "source_id": pa.string(),
    "known": pa.bool_(),
    "caption": pa.string(),
    "refusals": pa.list_(_REFUSAL),
    "num_clips": pa.int64(),
    "fault": pa.string(),  # what stops the run, for its driver to raise
    "clip": pa.struct(list(CLIPS)),
}
WRITTEN = pa.schema(_OUTCOME)
CUT = pa.schema({**_OUTCOME, "media": pa.large_binary()})


def to_tables(outcomes: Iterable[Outcome]) -> Iterator[pa.Table]:
    """Yield a table of the schema `CUT` for each file."""
    for outcome in outcomes:
        common: dict[str, Any] = {
            "source_uri": outcome.uri,
            "source_id": outcome.source_id,
            "known": outcome.known,
            "caption": outcome.caption,
            "refusals": [asdict(refusal) for refusal in outcome.refusals],
            "num_clips": len(outcome.clips),
        }
        rows = [common | {"clip": clip, "media": data} for clip, data in outcome.clips]
        yield pa.Table.from_pylist(rows or [common], schema=CUT)


def to_fault(fault: SnapvideoError) -> pa.Table:
    """Return a table of the schema `CUT` that stops the run.

    An exception in a Ray Data task would reach the driver without its class, below a traceback.
    """
    return pa.Table.from_pylist([{"fault": str(fault)}], schema=CUT)


def write_media(rows: pa.Table, root: str) -> pa.Table:
    """Return rows of the schema `WRITTEN`: the bytes are in one new shard, referred to."""
    try:
        return _written(rows, root)
    except SnapvideoError as fault:  # the disk is full, or the store does not answer
        return to_fault(fault).select(WRITTEN.names)


def _written(rows: pa.Table, root: str) -> pa.Table:
    clips, media = rows["clip"].to_pylist(), rows["media"].to_pylist()
    held = [
        (str(row["clip_id"]), data)
        for row, data in zip(clips, media, strict=True)
        if row and data is not None
    ]
    refs = iter(write_shard(Dataset(root), held))
    placed = [row and row | next(refs).columns() for row in clips]
    kept = rows.select([name for name in WRITTEN.names if name != "clip"])
    column = pa.array(placed, WRITTEN.field("clip").type)
    return kept.append_column("clip", column).select(WRITTEN.names).cast(WRITTEN)
