"""Media shards: immutable Parquet files of encoded clips, read by byte range.

One clip a row group, uncompressed and without a dictionary, so a clip is a contiguous run of
bytes: the tail of its column chunk. Offset, length and CRC32C stand in the clips table; a read is
one range request, and whatever a Parquet reader can open is still a plain Parquet file.

    with ShardWriter(dataset, max_bytes=256 << 20) as shards:
        for clip in clips:
            shards.add(clip.clip_id, clip.data)
        refs = shards.finish()
"""

import contextlib
import hashlib
import logging
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import DataError, MissingError, SnapvideoError
from infra.store.dataset import Dataset

log = logging.getLogger(__name__)

_FIELDS: "list[pa.Field[Any]]" = [
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("media", pa.binary(), nullable=False),
]
_SCHEMA = pa.schema(_FIELDS)
LARGEST = (1 << 31) - (1 << 20)


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
    with ShardWriter(dataset, max_bytes=sys.maxsize) as shards:
        for clip_id, data in rows:
            shards.add(clip_id, data)
        return shards.finish()


class ShardWriter(contextlib.AbstractContextManager["ShardWriter"]):
    """Clips written one by one into new shards; memory holds one of them and Parquet's buffers.

    A shard is put in its place when it is full or finished. A writer that is left without
    `finish` removes what it wrote.
    """

    def __init__(self, dataset: Dataset, max_bytes: int) -> None:
        """Prepare to write.

        Args:
            dataset: Where to.
            max_bytes: A shard that would pass it is followed by another; each has a clip at least.
        """
        self._dataset = dataset
        self._max_bytes = max_bytes
        self._local = not storage.is_s3(dataset.root)
        self._folder: Path | None = None
        self._open: _OpenShard | None = None
        self._refs: list[MediaRef] = []
        self._finished = False

    def __exit__(self, *_: object) -> None:
        """Remove what is not finished."""
        if self._open:
            self._open.discard()
        if self._folder and not self._local:
            shutil.rmtree(self._folder, ignore_errors=True)
        if not self._finished:
            for name in dict.fromkeys(ref.media_file for ref in self._refs):
                with contextlib.suppress(SnapvideoError):
                    storage.delete(self._dataset.uri(name))

    def add(self, clip_id: str, data: bytes) -> None:
        """Write one clip.

        Raises:
            DataError: The disk is full.
            ServiceError: S3 refuses a shard that is full.
        """
        assert not self._finished, "a finished writer takes no more clips"
        if self._open and self._open.size_bytes + len(data) > self._max_bytes:
            self._close()
        if self._open is None:
            self._open = _OpenShard(self._scratch(), f"media/{uuid.uuid4().hex}.parquet")
        self._open.add(clip_id, data)

    def finish(self) -> list[MediaRef]:
        """Put the last shard in its place; return where each clip lies, in order.

        Raises:
            DataError: The disk is full; nothing is left behind.
            ServiceError: S3 refuses the shard.
        """
        if self._open:
            self._close()
        self._finished = True
        return self._refs

    def _close(self) -> None:
        assert self._open is not None, "there is a shard to close"
        refs = self._open.finished()
        storage.upload(self._open.path, self._dataset.uri(self._open.name), move=True)
        self._refs += refs
        self._open = None

    def _scratch(self) -> Path:
        """Return the folder to write in; a local dataset's own, so that a rename is enough."""
        if self._folder is None:
            if self._local:
                self._folder = storage.local_path(self._dataset.uri("media"))
            else:
                self._folder = Path(tempfile.mkdtemp(prefix="snapvideo-shard-"))
        return self._folder


def read_media(root: str, row: Mapping[str, Any]) -> bytes:
    """Return the encoded bytes of one clip.

    Args:
        root: The dataset's root URI.
        row: A row of the clips table (or a `MediaRef.columns()`).

    Raises:
        DataError: `media_mismatch`: the shard does not hold what the row says, or is gone.
    """
    uri = storage.join(root, row["media_file"])
    try:
        data = storage.read_range(uri, row["media_offset"], row["media_length"])
    except MissingError as fault:
        raise DataError(f"media_mismatch: {fault}; restore the file") from fault
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


class _OpenShard:
    """A shard that is being written to a local file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / f".{name.rpartition('/')[2]}.tmp"
        self.size_bytes = 0
        self._refs: list[MediaRef] = []
        with _writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = pa.OSFile(str(self.path), "wb")
            self._writer = pq.ParquetWriter(
                self._file,
                _SCHEMA,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
            )

    def add(self, clip_id: str, data: bytes) -> None:
        if len(data) > LARGEST:
            raise DataError(
                f"clip {clip_id}: {len(data):,} bytes, a shard takes at most {LARGEST:,} a clip; "
                "cut it shorter, or encode it smaller"
            )
        ends = pa.array([0, len(data)], pa.int32()).buffers()[1]
        media = pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(data)])  # no copy
        row = pa.table([pa.array([clip_id]), media], schema=_SCHEMA)
        with _writing(self.path):
            self._writer.write_table(row, row_group_size=1)
        self.size_bytes += len(data)
        self._refs.append(
            MediaRef(
                media_file=self.name,
                media_row=len(self._refs),
                media_offset=-1,  # the footer will tell
                media_length=len(data),
                media_sha256=hashlib.sha256(data).hexdigest(),
                media_crc32c=crc32c(data),
            )
        )

    def finished(self) -> list[MediaRef]:
        """Close the file and return where each clip starts: it is the tail of its column chunk."""
        with _writing(self.path):
            self._writer.close()
            self._file.close()
            footer = pq.read_metadata(self.path)
        chunks = (footer.row_group(index).column(1) for index in range(footer.num_row_groups))
        return [
            replace(
                ref,
                media_offset=chunk.data_page_offset
                + chunk.total_compressed_size
                - ref.media_length,
            )
            for ref, chunk in zip(self._refs, chunks, strict=True)
        ]

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        with contextlib.suppress(OSError, pa.ArrowException):
            self._file.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as fault:
        raise storage.explain(str(path), fault) from fault


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
