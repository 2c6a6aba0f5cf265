"""Media shards: immutable Parquet files of encoded clips, read by byte range.

One clip a row group, uncompressed and without a dictionary, so a clip is a contiguous run of
bytes: the tail of its column chunk. Offset, length and CRC32C stand in the clips table; a read is
one range request, and whatever a Parquet reader can open is still a plain Parquet file.
"""

import hashlib
import io
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import DataError
from infra.store.dataset import Dataset

log = logging.getLogger(__name__)

_FIELDS: "list[pa.Field[Any]]" = [
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("media", pa.binary(), nullable=False),
]
_SCHEMA = pa.schema(_FIELDS)


@dataclass(frozen=True)
class MediaRef:
    """Where the bytes of one clip lie; the fields are columns of the clips table."""

    media_file: str
    media_row: int
    media_offset: int
    media_length: int
    media_sha256: str
    media_crc32c: int

    def columns(self) -> dict[str, Any]:
        """Return the reference as columns of a row."""
        return asdict(self)


def write_shard(dataset: Dataset, rows: Sequence[tuple[str, bytes]]) -> list[MediaRef]:
    """Write clips into one new shard and return where each lies.

    The shard's name is new on every call, so a task that is run again never overwrites; the rows
    that are committed decide which shard counts.

    Args:
        dataset: Where to.
        rows: Clip ids and their encoded bytes.

    Raises:
        DataError: The disk is full; nothing is left behind.
    """
    if not rows:
        return []
    name = f"media/{uuid.uuid4().hex}.parquet"
    shard = _shard_bytes(rows)
    offsets = _offsets(shard, [len(data) for _, data in rows])
    storage.write_bytes(dataset.uri(name), shard)
    return [
        MediaRef(
            media_file=name,
            media_row=index,
            media_offset=offset,
            media_length=len(data),
            media_sha256=hashlib.sha256(data).hexdigest(),
            media_crc32c=crc32c(data),
        )
        for index, ((_, data), offset) in enumerate(zip(rows, offsets, strict=True))
    ]


def read_media(root: str, row: Mapping[str, Any]) -> bytes:
    """Return the encoded bytes of one clip.

    Args:
        root: The dataset's root URI.
        row: A row of the clips table (or a `MediaRef.columns()`).

    Raises:
        DataError: `media_mismatch`: the shard does not hold what the row says, or is gone.
    """
    uri = storage.join(root, row["media_file"])
    data = storage.read_range(uri, row["media_offset"], row["media_length"])
    if _matches(data, row):
        return data
    log.warning("byte range does not match, reading as Parquet file=%s", uri)
    data = _read_row(uri, row["media_row"])
    if _matches(data, row):
        return data
    raise DataError(
        f"media_mismatch: {uri} row {row['media_row']} is not the clip that was written "
        f"(CRC32C {crc32c(data)}, expected {row['media_crc32c']}); restore the file, or remove "
        "the dataset and ingest again"
    )


def crc32c(data: bytes) -> int:
    """Return the CRC32C (Castagnoli) of bytes."""
    return int(google_crc32c.value(data))


def _shard_bytes(rows: Sequence[tuple[str, bytes]]) -> bytes:
    table = pa.Table.from_pylist([{"clip_id": i, "media": d} for i, d in rows], schema=_SCHEMA)
    file = io.BytesIO()
    with pq.ParquetWriter(
        file, _SCHEMA, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        writer.write_table(table, row_group_size=1)
    return file.getvalue()


def _offsets(shard: bytes, lengths: Sequence[int]) -> list[int]:
    """Return where each value starts: it is the tail of its column chunk."""
    footer = pq.read_metadata(io.BytesIO(shard))
    chunks = [footer.row_group(index).column(1) for index in range(footer.num_row_groups)]
    return [
        chunk.data_page_offset + chunk.total_compressed_size - length
        for chunk, length in zip(chunks, lengths, strict=True)
    ]


def _matches(data: bytes, row: Mapping[str, Any]) -> bool:
    return bool(len(data) == row["media_length"] and crc32c(data) == row["media_crc32c"])


def _read_row(uri: str, index: int) -> bytes:
    files, path = storage.filesystem(uri)
    try:
        with files.open_input_file(path) as file:
            group = pq.ParquetFile(file).read_row_group(index, columns=["media"])
            return bytes(group["media"][0].as_py())
    except (OSError, pa.ArrowException) as fault:
        raise DataError(
            f"media_mismatch: {uri} cannot be read as a shard ({fault}); restore the file"
        ) from fault
