"""What can be wrong with a dataset, one question each; `snapvideo dataset verify` asks them all.

Shards are checked against the rows of the clips table: their footers, and their bytes by CRC32C
and SHA-256. Rows are checked against each other by queries that run out of core.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import DataError
from infra.store import release as releases
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.query import query
from infra.store.schema import SCHEMAS, TableName

CHECKED = (
    *("clip_id", "media_file", "media_row", "media_offset", "media_length"),
    *("media_sha256", "media_crc32c"),
)
"""Columns of the clips table that `shard_faults` needs."""

_UNKNOWN = (
    "SELECT {column} AS subject, 'in {table}, {what}' AS message FROM "
    "(SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL) AS named "
    "ANTI JOIN clips ON clips.clip_id = named.{column}"
)
_DOUBLED = (
    "SELECT concat_ws(' ', {columns}) AS subject, count(*) || ' rows in {table}' AS message "
    "FROM {table} WHERE {first} IS NOT NULL GROUP BY {columns} HAVING count(*) > 1"
)
_QUESTIONS: tuple[tuple[str, str], ...] = (
    ("doubled_clip", _DOUBLED.format(columns="clip_id", first="clip_id", table="clips")),
    (
        "doubled_caption",
        _DOUBLED.format(columns="caption_id", first="caption_id", table="captions"),
    ),
    (
        "doubled_score",
        _DOUBLED.format(columns="clip_id, scorer, version", first="clip_id", table="scores"),
    ),
    (
        "incomplete_clip",
        "SELECT coalesce(clip_id, '(no id)') AS subject, 'says not where its bytes lie' AS message "
        "FROM clips WHERE clip_id IS NULL OR media_file IS NULL OR media_row IS NULL "
        "OR media_offset IS NULL OR media_length IS NULL OR media_sha256 IS NULL "
        "OR media_crc32c IS NULL",
    ),
    *(
        ("unknown_clip", _UNKNOWN.format(table=table, column=column, what="not in clips"))
        for table, column in (
            *(("captions", "clip_id"), ("scores", "clip_id"), ("vectors", "clip_id")),
            *(("duplicates", "clip_id"), ("duplicates", "of_clip_id")),
        )
    ),
    (
        "lost_clips",
        "SELECT source_uri AS subject, "
        "num_clips || ' clips are told, ' || coalesce(num, 0) || ' are there' AS message "
        "FROM current_sources LEFT JOIN ("
        "SELECT source_id, transform_id, count(DISTINCT clip_id) AS num FROM clips GROUP BY ALL"
        ") AS held USING (source_id, transform_id) "
        "WHERE status = 'ok' AND num_clips > coalesce(num, 0)",
    ),
    (
        "broken_values",
        "SELECT clip_id AS subject, 'a vector of ' || octet_length(\"values\") || ' bytes, width ' "
        '|| width AS message FROM vectors WHERE octet_length("values") <> 2 * width',
    ),
    (
        "broken_values",
        "SELECT text_hash AS subject, 'an embedding of ' || octet_length(\"values\") || ' bytes' "
        'AS message FROM embeddings WHERE octet_length("values") <> 2 * num_tokens * width',
    ),
)


@dataclass(frozen=True)
class Fault:
    """Something that is wrong."""

    kind: str
    """One of a few words, to be counted by."""
    subject: str
    """The clip, shard, source or release."""
    message: str


def row_faults(dataset: Dataset, versions: Mapping[TableName, int]) -> Iterator[Fault]:
    """Yield what is wrong among the rows of the tables."""
    for kind, sql in _QUESTIONS:
        with query(dataset, sql, versions) as found:
            for batch in found:
                for row in batch.to_pylist():
                    yield Fault(kind, str(row["subject"]), str(row["message"]))


def shard_faults(root: str, rows: Sequence[Mapping[str, Any]], quick: bool) -> list[Fault]:
    """Return what is wrong with one shard.

    Args:
        root: The dataset's root.
        rows: The clips that lie in it: `CHECKED`, all of the same `media_file`.
        quick: Read only its footer.
    """
    name = rows[0]["media_file"]
    uri = storage.join(root, name)
    try:
        footer, names = _footer(uri, with_ids=not quick)
    except DataError as fault:
        return [Fault("lost_shard", name, f"{len(rows)} clips: {fault}")]
    found = [fault for row in rows for fault in _misplaced(row, footer, names)]
    if quick:
        return found
    return found + [fault for row in rows for fault in _damaged(root, row)]


def release_faults(root: str, name: str) -> Iterator[Fault]:
    """Yield what is wrong with one release: whether it still gives what it was made of."""
    try:
        release = releases.load(root, name)
        digest, num_clips = releases.digest_of(release)
    except DataError as fault:
        yield Fault("broken_release", name, str(fault))
        return
    if digest != release.digest:
        yield Fault(
            "changed_release",
            name,
            f"gives {num_clips} clips with digest {digest[:12]}, was made of {release.num_clips} "
            f"with digest {release.digest[:12]}",
        )


def table_faults(dataset: Dataset) -> tuple[dict[TableName, int], list[Fault]]:
    """Return the newest version of each table, and those that cannot be opened or read."""
    versions: dict[TableName, int] = {}
    faults = []
    for table in SCHEMAS:
        versions[table] = -1
        try:
            version = dataset.version(table)
            dataset.rows(table, version).count_rows()  # from the footers of its data files
            versions[table] = version
        except DataError as fault:
            faults.append(Fault("broken_table", table, str(fault)))
        except (OSError, pa.ArrowException) as fault:
            faults.append(Fault("broken_table", table, str(storage.explain(dataset.root, fault))))
    return versions, faults


def _footer(uri: str, with_ids: bool) -> tuple[pq.FileMetaData, list[str]]:
    files, path = storage.filesystem(uri)
    try:
        with files.open_input_file(path) as file:
            shard = pq.ParquetFile(file)
            ids = shard.read(columns=["clip_id"])["clip_id"].to_pylist() if with_ids else []
            return shard.metadata, [str(name) for name in ids]
    except (OSError, pa.ArrowException, KeyError) as fault:
        raise DataError(f"cannot be read as a shard ({fault}); restore the file") from fault


def _misplaced(
    row: Mapping[str, Any], footer: pq.FileMetaData, names: Sequence[str]
) -> Iterator[Fault]:
    """Yield whether a row says of its bytes what the footer of the shard says."""
    clip, group = str(row["clip_id"]), row["media_row"]
    if not 0 <= group < footer.num_row_groups:
        text = f"row {group} of {row['media_file']}, which has {footer.num_row_groups}"
        yield Fault("misplaced_clip", clip, text)
        return
    chunk = footer.row_group(group).column(footer.num_columns - 1)
    offset = chunk.data_page_offset + chunk.total_compressed_size - row["media_length"]
    if offset != row["media_offset"]:
        text = f"at byte {offset} of {row['media_file']}, its row says {row['media_offset']}"
        yield Fault("misplaced_clip", clip, text)
    if names and names[group] != clip:
        text = f"row {group} of {row['media_file']} is clip {names[group]}"
        yield Fault("misplaced_clip", clip, text)


def _damaged(root: str, row: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        data = read_media(root, row)
    except DataError as fault:
        yield Fault("damaged_clip", str(row["clip_id"]), str(fault))
        return
    if hashlib.sha256(data).hexdigest() != row["media_sha256"]:
        yield Fault("damaged_clip", str(row["clip_id"]), "its SHA-256 differs")
