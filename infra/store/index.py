"""The index of a release: its rows as one file that every process of a node maps into memory.

It is made once, out of core, and kept beside the release; in S3, where it is fetched from once a
node. Rows are sorted by split, kind, shard, number of frames (most first) and clip, so a shard's
clips of at least n frames lie together and an order needs no more than where shards begin
(`Index.shards`). Shards stand by their first clip, because their names are random.

    index = opened(release, cache_folder)
    shards = index.shards("train", "video", min_frames=16)
    index.row(int(shards.firsts[0]))["clip_id"]
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra import local, storage
from infra.errors import DataError, SnapvideoError
from infra.store.cache import locked
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.release import Release, Split, captioned_sql
from infra.store.schema import CLIPS
from infra.store.selection import Kind
from infra.store.texts import text_hash

log = logging.getLogger(__name__)

FORMAT = 1
_BATCH_ROWS = 1 << 16
_OF_CLIPS = (
    "clip_id", "kind", "source_id", "source_uri", "shot_index", "media_file", "media_row",
    "media_offset", "media_length", "media_crc32c", "num_frames", "width", "height", "crop",
    "duration_s",
)  # fmt: skip
_SCHEMA = pa.schema(
    [
        *(CLIPS.field(name) for name in _OF_CLIPS),
        pa.field("split", pa.string()),
        pa.field("text", pa.string()),
        pa.field("text_hash", pa.string()),
        pa.field("shard", pa.int64()),  # counts the shards of all splits and kinds
    ]
)

_SHARD = ("split", "kind", "media_file")
_LIMIT_BYTES = 1 << 40

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shards:
    """Where the clips of one split and kind lie: `counts[i]` rows from `firsts[i]` on."""

    firsts: Numbers
    counts: Numbers
    frames: Numbers
    """Frames of all clips of a shard."""

    @property
    def num_clips(self) -> int:
        """All of them."""
        return int(self.counts.sum())


@dataclass
class Index:
    """The rows of a release by number; pickles as its path."""

    path: Path
    _batches: list[pa.RecordBatch] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._batches = _mapped(self.path)

    def __reduce__(self) -> tuple[type["Index"], tuple[Path]]:
        return type(self), (self.path,)

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    @property
    def facts(self) -> tuple[int, str]:
        """Version of the index's format, and which release it is of."""
        found = (self._batches[0].schema.metadata or {}) if self._batches else {}
        return int(found.get(b"format", -1)), found.get(b"release", b"").decode()

    def row(self, number: int) -> dict[str, Any]:
        """Return a row."""
        batch, place = divmod(number, _BATCH_ROWS)
        (row,) = self._batches[batch].slice(place, 1).to_pylist()
        return dict(row)

    def table(self, columns: list[str]) -> pa.Table:
        """Return columns as a table that is mapped and not copied."""
        return pa.Table.from_batches(self._batches).select(columns)

    def shards(self, split: Split, kind: Kind, min_frames: int = 1) -> Shards:
        """Return where the clips of a split and kind lie.

        Args:
            split: Whose.
            kind: Images, or videos of at least `min_frames`.
            min_frames: The first clips of a shard have the most.
        """
        found: list[list[int]] = []  # first row, clips, frames
        before, last = 0, -1
        for batch in self._batches:
            shard = batch["shard"].to_numpy()
            frames = batch["num_frames"].fill_null(0).to_numpy()
            fits = _equal(batch["split"], split) & _equal(batch["kind"], kind)
            fits &= (frames >= min_frames) | (kind == "image")
            starts = np.flatnonzero(np.diff(shard, prepend=last))
            edges = [0, *starts[starts > 0].tolist(), len(batch)]
            for left, right in itertools.pairwise(edges):
                kept = frames[left:right][fits[left:right]]
                if len(kept) and shard[left] == last:  # begun in the batch before
                    found[-1][1] += len(kept)
                    found[-1][2] += int(kept.sum())
                elif len(kept):
                    found.append([before + left, len(kept), int(kept.sum())])
                last = int(shard[left])
            before += len(batch)
        firsts, counts, frames = np.array(found, np.int64).reshape(-1, 3).T
        return Shards(firsts, counts, frames)


def _equal(column: "pa.Array[Any]", value: str) -> npt.NDArray[np.bool_]:
    same = pc.equal(column, pa.scalar(value))
    return np.asarray(same.to_numpy(zero_copy_only=False), np.bool_)


def opened(release: Release, cache_folder: Path) -> Index:
    """Return the index of a release, made now where nobody made it before.

    Args:
        release: Whose.
        cache_folder: Where a copy goes if the release lies in S3 or where nothing may be written.

    Raises:
        DataError: The file is not this release's index, or the disk is full.
    """
    name = f"{release.name}.{release.digest[:12]}.arrow"
    beside = storage.join(release.root, "releases", name)
    # The same content may lie in other shards below another root, under the same name.
    spare = cache_folder / "releases" / hashlib.sha256(release.root.encode()).hexdigest()[:24]
    spare.mkdir(parents=True, exist_ok=True)
    name = f"{release.name}.{_identity(release)[:24]}.arrow"
    with locked(spare / f"{name}.lock"):
        path = spare / name
        if not path.exists() and not storage.is_s3(release.root):
            path = _at_home(release, Path(beside), path)
        elif not path.exists():
            _fetch(release, beside, path)
    return _checked(Index(path), release)


def _at_home(release: Release, beside: Path, spare: Path) -> Path:
    """Return the index beside a local release; its spare place where that cannot be written."""
    if beside.exists():
        return beside
    try:
        _make(release, beside)
    except DataError as fault:
        if os.access(beside.parent, os.W_OK):
            raise
        log.warning("index kept in the cache, not beside the release fault=%s", fault)
        _make(release, spare)
        return spare
    return beside


def _fetch(release: Release, uri: str, path: Path) -> None:
    """Copy the index from S3, or make it and leave a copy there for other nodes."""
    if storage.exists(uri):
        storage.copy_to(uri, path, limit_bytes=_LIMIT_BYTES)
        return
    _make(release, path)
    try:
        storage.upload(path, uri)
    except SnapvideoError as fault:
        log.warning("index kept on this node only fault=%s", fault)


def _make(release: Release, path: Path) -> None:
    """Write the index; whole or not at all, and never over one that is there."""
    sql, values = captioned_sql(release.selection)
    taken = ", ".join(f'"{name}"' for name in (*_OF_CLIPS, "split", "text"))
    sql = (
        f"SELECT {taken} FROM (SELECT *, min(clip_id) OVER (PARTITION BY split, kind, media_file) "
        f"AS first_clip FROM ({sql})) ORDER BY split, kind, first_clip, media_file, "
        "coalesce(num_frames, 0) DESC, clip_id"
    )
    facts = {b"format": str(FORMAT).encode(), b"release": _identity(release).encode()}
    with local.beside(path) as temporary:
        with (
            query(Dataset(release.root), sql, release.versions, parameters=values) as rows,
            pa.ipc.new_file(str(temporary), _SCHEMA.with_metadata(facts)) as sink,
        ):
            for batch in _numbered(rows):
                sink.write_batch(batch)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    log.info("indexed release=%s clips=%d file=%s", release.name, release.num_clips, path)


def _numbered(rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield the index's batches, all of one length but the last."""
    last: tuple[Any, ...] = ()
    shard = -1
    for batch in _rechunked(rows):
        keys = zip(*(batch[name].to_pylist() for name in _SHARD), strict=True)
        shards = []
        for key in keys:
            shard += key != last
            last = key
            shards.append(shard)
        hashes = [text_hash(str(text)) for text in batch["text"].to_pylist()]
        columns = [batch[name] for name in _SCHEMA.names[:-2]]
        columns += [pa.array(hashes, pa.string()), pa.array(shards, pa.int64())]
        yield pa.record_batch(
            [c.cast(f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
        )


def _rechunked(rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    held: list[pa.RecordBatch] = []
    for batch in rows:
        held.append(batch)
        while sum(map(len, held)) >= _BATCH_ROWS:
            whole = pa.Table.from_batches(held).combine_chunks()
            (first,) = whole.slice(0, _BATCH_ROWS).combine_chunks().to_batches()
            yield first
            held = whole.slice(_BATCH_ROWS).to_batches()
    if sum(map(len, held)):
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()


def _mapped(path: Path) -> list[pa.RecordBatch]:
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            return [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException) as fault:
        raise DataError(
            f"{path}: cannot be read as a release's index ({fault}); delete it, it is made again"
        ) from fault


def _checked(index: Index, release: Release) -> Index:
    found, expected = (*index.facts, len(index)), (FORMAT, _identity(release), release.num_clips)
    if found != expected:
        raise DataError(
            f"{index.path}: not the index of release {release.name} (format, release and clips are "
            f"{found}, expected {expected}); delete it, it is made again"
        )
    return index


def _identity(release: Release) -> str:
    """Return what tells apart releases that are made of the same content in other shards."""
    facts = [release.digest, release.created_at, sorted(release.versions.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
