"""Write the clips of a task into a media shard and lay out what the tables will hold.

A task answers with one row a source. Bytes stay with the task: they go into the shard, and the
rows say where they lie.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from infra.errors import SnapvideoError
from infra.store.dataset import Dataset
from infra.store.media import ShardWriter
from infra.store.schema import CLIPS
from pipelines.steps.source import Found, MadeClip, Outcome

_text: pa.DataType = pa.string()
_int: pa.DataType = pa.int64()
_REFUSAL: pa.DataType = pa.struct(
    [
        ("stage", _text),
        ("reason", _text),
        ("message", _text),
        ("retryable", pa.bool_()),
        ("policy_id", _text),
    ]
)
_CAPTION: pa.DataType = pa.struct([("text", _text), ("origin", _text), ("lang", _text)])
_SCORE: pa.DataType = pa.struct([("scorer", _text), ("value", pa.float64())])
_CLIP: pa.DataType = pa.struct([("row", pa.struct(list(CLIPS))), ("scores", pa.list_(_SCORE))])
_COLUMNS: dict[str, pa.DataType] = {
    "source_uri": _text,
    "partition": _text,
    "stamp": _text,
    "caption_stamp": _text,
    "source_id": _text,
    "known": pa.bool_(),
    "why": _text,
    "attempts": _int,
    "size_bytes": _int,
    "metadata": _text,
    "captions": pa.list_(_CAPTION),
    "refusals": pa.list_(_REFUSAL),
    "clips": pa.list_(_CLIP),
    "fault": _text,  # what stops the run, for its driver to raise
}
WRITTEN = pa.schema(_COLUMNS)


def write_all(found: Iterable[Found], dataset: Dataset, max_shard_mib: int) -> pa.Table:
    """Put clips into a new shard; return a row of the schema `WRITTEN` for each source.

    Raises:
        SnapvideoError: The shard cannot be written.
    """
    rows: list[dict[str, Any]] = []
    placed: list[list[int]] = []  # of each row, where its clips lie in the shard's order
    pending: dict[str, tuple[int, dict[str, Any]]] = {}  # clips of the source that is looked at
    count = 0
    with ShardWriter(dataset, max_shard_mib << 20) as shard:
        for one in found:
            if isinstance(one, MadeClip):
                shard.add(one.row["clip_id"], one.data)
                pending[one.row["clip_id"]] = count, _clip(one)
                count += 1
                continue
            kept = [pending[clip_id] for clip_id in one.clip_ids]
            placed.append([index for index, _ in kept])
            rows.append(_row(one, [clip for _, clip in kept]))
            pending = {}
        refs = shard.finish()
    for row, indices in zip(rows, placed, strict=True):
        for clip, index in zip(row["clips"], indices, strict=True):
            clip["row"] |= refs[index].columns()
    return pa.Table.from_pylist(rows, schema=WRITTEN)


def to_fault(fault: SnapvideoError) -> pa.Table:
    """Return a table of the schema `WRITTEN` that stops the run.

    An exception in a Ray Data task would reach the driver without its class, below a traceback.
    """
    return pa.Table.from_pylist([{"fault": str(fault)}], schema=WRITTEN)


def _clip(made: MadeClip) -> dict[str, Any]:
    scores = [{"scorer": scorer, "value": value} for scorer, value in made.scores.items()]
    return {"row": dict(made.row), "scores": scores}


def _row(outcome: Outcome, clips: list[dict[str, Any]]) -> dict[str, Any]:
    entry = outcome.planned.entry
    return {
        "source_uri": entry.uri,
        "partition": entry.partition,
        "stamp": entry.stamp,
        "caption_stamp": entry.caption_stamp,
        "source_id": outcome.source_id,
        "known": outcome.known,
        "why": outcome.planned.why,
        "attempts": outcome.planned.attempts + 1,
        "size_bytes": outcome.size_bytes,
        "metadata": outcome.metadata,
        "captions": [asdict(caption) for caption in outcome.captions],
        "refusals": [asdict(refusal) for refusal in outcome.refusals],
        "clips": clips,
    }
