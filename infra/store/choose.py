"""The clips that count: what a selection takes from the tables, streamed in order of clip_id.

Captioning, embedding, releases, exports and previews all ask here, so that they mean the same
clips. Nothing is held: the tables are joined out of core and rows arrive in batches.

    with chosen_clips(dataset, Selection(min_frames=8), columns=["clip_id", "media_file"]) as rows:
        for batch in rows: ...
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa

from infra.errors import ConfigError
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.schema import CLIPS, TableName
from infra.store.selection import OF_THE_CLIP, Bound, Selection

BUCKETS = 1000
"""Values of `split_bucket`."""

MEASURES = {
    "width": "width",
    "height": "height",
    "duration_s": "duration_s",
    "num_frames": "num_frames",
    "fps": "fps_num::DOUBLE / nullif(fps_den, 0)",
}
"""What a bound of the version `OF_THE_CLIP` may be on, as SQL over the clips table."""


@contextmanager
def chosen_clips(
    dataset: Dataset,
    selection: Selection,
    versions: Mapping[TableName, int] | None = None,
    columns: Sequence[str] | None = None,
    memory_mib: int = 512,
) -> Iterator[pa.RecordBatchReader]:
    """Give the clips of a selection, sorted by clip_id, whether or not they have a caption.

    Args:
        dataset: Whose.
        selection: Which; what it says about captions is not heeded here.
        versions: Table versions to read; the newest by default.
        columns: Of the clips table, and `split`; all by default.
        memory_mib: Memory for the join, MiB; the rest lies in a temporary folder.

    Raises:
        ConfigError: A column or a bound's scorer is not known.
    """
    names = list(columns) if columns is not None else [*CLIPS.names, "split"]
    unknown = sorted(set(names) - {*CLIPS.names, "split"})
    if unknown:
        raise ConfigError(f"columns {unknown}: not of the clips table; it has {CLIPS.names}")
    taken, values = selected_sql(selection)
    listed = ", ".join(f'"{name}"' for name in names)
    sql = f"SELECT {listed} FROM ({taken}) ORDER BY clip_id"
    with query(dataset, sql, versions, parameters=values, memory_mib=memory_mib) as rows:
        yield rows


def selected_sql(selection: Selection) -> tuple[str, list[object]]:
    """Return a SELECT of the clips table's columns and `split`, and its parameters in order.

    A clip that is a double stays where what it doubles is not selected itself. Of two clips that
    double each other, as two searches may find them to, the one of the lesser clip_id stays.

    Raises:
        ConfigError: A bound's scorer is not known.
    """
    tests, values = _tests(selection)
    picked = f"SELECT *, {_split_sql(selection)} AS split FROM clips WHERE {' AND '.join(tests)}"
    if not selection.duplicate_versions:
        return picked, values
    return (
        f"WITH picked AS ({picked}), told AS (SELECT DISTINCT clip_id, of_clip_id FROM duplicates "
        f"WHERE clip_id <> of_clip_id AND version IN ({_marks(selection.duplicate_versions)})) "
        "SELECT picked.* FROM picked ANTI JOIN ("
        "SELECT d.clip_id FROM told d SEMI JOIN picked p ON p.clip_id = d.of_clip_id "
        "ANTI JOIN told r ON d.clip_id < d.of_clip_id "
        "AND r.clip_id = d.of_clip_id AND r.of_clip_id = d.clip_id"
        ") AS doubles USING (clip_id)"
    ), [*values, *selection.duplicate_versions]


def _tests(selection: Selection) -> tuple[list[str], list[object]]:
    """Return what is asked of a clip, and the parameters."""
    tests = [
        f"kind IN ({_marks(selection.kinds)})",
        "(kind = 'image' OR num_frames >= ?)",
    ]
    values: list[object] = [*selection.kinds, selection.min_frames]
    if selection.transform_id:
        tests.append("transform_id = ?")
        values.append(selection.transform_id)
    if selection.source_root or selection.partitions or selection.present:
        columns = "source_id, transform_id" if selection.present else "source_id"
        found, more = _of_sources(selection, columns)
        tests.append(f"({columns}) IN ({found})")
        values += more
    for bound in selection.bounds:
        test, more = bound_sql(bound)
        tests.append(test)
        values += more
    return tests, values


def _of_sources(selection: Selection, columns: str) -> tuple[str, list[object]]:
    tests = ["status = 'ok'"]
    values: list[object] = []
    if selection.source_root:
        tests.append("source_root = ?")
        values.append(selection.source_root)
    if selection.partitions:
        tests.append(f'"partition" IN ({_marks(selection.partitions)})')
        values += selection.partitions
    return f"SELECT {columns} FROM current_sources WHERE {' AND '.join(tests)}", values


def bound_sql(bound: Bound) -> tuple[str, list[object]]:
    """Return the test of one bound on a row of the clips table, and its parameters.

    Raises:
        ConfigError: The bound is on a column of the clips table that is no measure.
    """
    if not bound.kinds:
        return "true", []
    test, values = _measured_sql(bound)
    values += [bound.least, bound.most]
    if set(bound.kinds) >= {"video", "image"}:
        return test, values
    return f"(kind NOT IN ({_marks(bound.kinds)}) OR {test})", [*bound.kinds, *values]


def _measured_sql(bound: Bound) -> tuple[str, list[object]]:
    """Return the test of a bound with the two limits still to come, and what comes before them."""
    if bound.version != OF_THE_CLIP:
        return (
            "clip_id IN (SELECT clip_id FROM scores "
            "WHERE scorer = ? AND version = ? AND value BETWEEN ? AND ?)"
        ), [bound.scorer, bound.version]
    measure = MEASURES.get(bound.scorer)
    if measure is None:
        raise ConfigError(
            f"bounds: scorer '{bound.scorer}' with version '{OF_THE_CLIP}'; accepted: "
            f"{', '.join(MEASURES)}; other scorers need the version that their scores have"
        )
    return f"{measure} BETWEEN ? AND ?", []


def _split_sql(selection: Selection) -> str:
    """Return the split of a clip: the first buckets are for testing, the next for validation."""
    test = round(selection.test_share * BUCKETS)
    validation = test + round(selection.validation_share * BUCKETS)
    return (
        f"CASE WHEN coalesce(split_bucket, 0) < {test} THEN 'test' "
        f"WHEN coalesce(split_bucket, 0) < {validation} THEN 'validation' ELSE 'train' END"
    )


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values)) or "NULL"  # nothing is equal to NULL
