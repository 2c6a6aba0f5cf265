"""Releases: a name for exactly what a training run reads.

A release pins table versions and a selection, is created exclusively and never edited. Its
digest is a hash of the content that the selection yields (clips, splits, chosen captions), so
the same corpus gives the same digest however often its ingest was interrupted.

    release = create(dataset, "2026-11", Selection(min_frames=8))
    release.clips("train"), release.captions(), release.embeddings(encoder_id)
"""

import dataclasses
import datetime as dt
import hashlib
import json
import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from infra import storage
from infra.config import Settings
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.schema import FORMAT, SCHEMAS, TableName
from infra.store.texts import text_hash

Split = Literal["train", "validation", "test"]

_BUCKETS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_CHOSEN = pa.schema(
    {name: pa.string() for name in ("clip_id", "text", "text_hash", "origin", "recipe_id")}
)


class Selection(Settings):
    """Which clips and captions a release holds."""

    kinds: tuple[Literal["video", "image"], ...] = ("video", "image")
    """Kinds of clip."""
    min_frames: int = Field(default=1, ge=1)
    """Shortest video, in frames; images are not measured by it."""
    transform_id: str = ""
    """Only clips cut by this transform (see `IngestCounts.transform_id`); empty: any."""
    source_ids: tuple[str, ...] = ()
    """Only clips of these sources; empty: any."""
    recipe_ids: tuple[str, ...] = ()
    """Only synthetic captions of these recipes; empty: any."""
    caption_policy: Literal["human_first"] = "human_first"
    """One caption a clip: the newest human one, else the newest synthetic one that is ok."""
    validation_share: float = Field(default=0.05, ge=0, le=0.5)
    """Share of sources (by hash) kept for validation."""
    test_share: float = Field(default=0.05, ge=0, le=0.5)
    """Share of sources (by hash) kept for testing."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A pinned view of a dataset; read it with `load`."""

    root: str
    name: str
    digest: str
    versions: dict[TableName, int]
    selection: Selection
    num_clips: int
    created_at: str

    def clips(self, split: Split | None = None) -> pa.Table:
        """Return captioned clips, sorted by clip_id: the clips table's columns and `split`."""
        rows = _selected(Dataset(self.root), self.versions, self.selection)
        held = pc.is_in(rows["clip_id"], value_set=self.captions()["clip_id"])
        rows = rows.filter(held)
        return rows if split is None else rows.filter(pc.field("split") == split)

    def captions(self) -> pa.Table:
        """Return one caption for each clip: clip_id, text, text_hash, origin, recipe_id."""
        return _chosen(Dataset(self.root), self.versions, self.selection)

    def embeddings(self, encoder_id: str) -> dict[str, npt.NDArray[np.uint16]]:
        """Return the text embedding of every caption in the release, by text hash.

        Embeddings are a cache keyed by content whose rows never change, so the newest version is
        read, also if they were made after the release.

        Returns:
            Arrays [num_tokens, width] of bfloat16 bit patterns; in torch:
            `torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)`.

        Raises:
            DataError: A text of the release is not embedded by this encoder.
        """
        wanted = set(self.captions()["text_hash"].to_pylist())
        rows = Dataset(self.root).read("embeddings", where=pc.field("encoder_id") == encoder_id)
        found = {
            row["text_hash"]: np.frombuffer(row["values"], "<u2").reshape(
                row["num_tokens"], row["width"]
            )
            for row in rows.to_pylist()
            if row["text_hash"] in wanted
        }
        missing = len(wanted) - len(found)
        if missing:
            raise DataError(
                f"release {self.name}: {missing} of {len(wanted)} texts are not embedded by "
                f"encoder {encoder_id}; run `snapvideo caption`, which embeds"
            )
        return found


def create(dataset: Dataset, name: str, selection: Selection) -> Release:
    """Pin the dataset as it is now, under a name; repeating an identical call changes nothing.

    Raises:
        DataError: The name is malformed, is taken by other content, or nothing is selected.
    """
    uri = _uri(dataset.root, name)
    versions: dict[TableName, int] = {table: dataset.version(table) for table in SCHEMAS}
    digest, num_clips = _digest(dataset, versions, selection)
    if not num_clips:
        raise DataError(
            f"{dataset.root}: no captioned clip matches the selection; ingest and caption first, "
            f"or widen it: {selection.model_dump_json(exclude={'source_ids'})}"
        )
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    release = Release(dataset.root, name, digest, versions, selection, num_clips, now)
    if storage.create_exclusive(uri, _to_json(release)):
        return release
    found = load(dataset.root, name)
    if found.digest != digest:
        raise DataError(
            f"release {name}: exists with other content (digest {found.digest[:12]}, now "
            f"{digest[:12]}); releases are never edited, choose another name"
        )
    return found


def load(root: str, name: str) -> Release:
    """Return the release of that name.

    Raises:
        DataError: The name is malformed, there is none, or its file cannot be understood.
    """
    dataset = Dataset.open(root)
    uri = _uri(dataset.root, name)
    if not storage.exists(uri):
        raise DataError(f"{uri}: no such release; there are: {', '.join(names(root)) or 'none'}")
    try:
        tree = json.loads(storage.read_bytes(uri))
        return Release(
            root=dataset.root,
            name=name,
            digest=tree["digest"],
            versions=tree["versions"],
            selection=Selection.model_validate(tree["selection"]),
            num_clips=tree["num_clips"],
            created_at=tree["created_at"],
        )
    except (ValueError, KeyError, TypeError, ValidationError) as fault:
        raise DataError(f"{uri}: cannot be understood ({fault!r}); restore the file") from fault


def names(root: str) -> list[str]:
    """Return the names of a dataset's releases, sorted."""
    files = storage.list_files(storage.join(storage.absolute(root), "releases"))
    found = (info.uri.rpartition("/")[2] for info in files)
    return [name.removesuffix(".json") for name in found if name.endswith(".json")]


def split_of(bucket: int, selection: Selection) -> Split:
    """Return the split of a source's bucket (0..999)."""
    test = round(selection.test_share * _BUCKETS)
    if bucket < test:
        return "test"
    validation = test + round(selection.validation_share * _BUCKETS)
    return "validation" if bucket < validation else "train"


def _uri(root: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(f"release name {name!r}: use letters, digits, '.', '_' and '-'")
    return storage.join(root, "releases", f"{name}.json")


def _to_json(release: Release) -> bytes:
    tree = {
        "format": FORMAT,
        "digest": release.digest,
        "created_at": release.created_at,
        "num_clips": release.num_clips,
        "selection": release.selection.model_dump(mode="json"),
        "versions": release.versions,
    }
    return json.dumps(tree, indent=1).encode()


def _selected(dataset: Dataset, versions: dict[TableName, int], selection: Selection) -> pa.Table:
    long_enough = (pc.field("kind") == "image") | (pc.field("num_frames") >= selection.min_frames)
    where = pc.field("kind").isin(list(selection.kinds)) & long_enough
    if selection.transform_id:
        where &= pc.field("transform_id") == selection.transform_id
    if selection.source_ids:
        where &= pc.field("source_id").isin(list(selection.source_ids))
    rows = dataset.read("clips", versions["clips"], where=where).sort_by("clip_id")
    splits = [split_of(int(bucket or 0), selection) for bucket in rows["split_bucket"].to_pylist()]
    return rows.append_column("split", pa.array(splits, pa.string()))


def _chosen(dataset: Dataset, versions: dict[TableName, int], selection: Selection) -> pa.Table:
    """Return the caption that the policy takes for each selected clip that has one."""
    clip_ids = _selected(dataset, versions, selection)["clip_id"]
    ok = (pc.field("status") == "ok") & pc.field("clip_id").isin(clip_ids.combine_chunks())
    if selection.recipe_ids:
        wanted = pc.field("recipe_id").isin(list(selection.recipe_ids))
        ok &= (pc.field("origin") != "synthetic") | wanted
    columns = ["clip_id", "caption_id", "text", "origin", "recipe_id", "created_at", "commit_seq"]
    rows = dataset.read("captions", versions["captions"], columns, ok).to_pylist()
    rows.sort(
        key=lambda r: (r["origin"] == "human", r["commit_seq"], r["created_at"], r["caption_id"])
    )
    best = {row["clip_id"]: row for row in rows}  # the last one wins: human, then newest
    chosen = [
        {name: row.get(name) for name in _CHOSEN.names} | {"text_hash": text_hash(row["text"])}
        for _, row in sorted(best.items())
    ]
    return pa.Table.from_pylist(chosen, schema=_CHOSEN)


def _digest(
    dataset: Dataset, versions: dict[TableName, int], selection: Selection
) -> tuple[str, int]:
    """Return the hash of what the selection yields, and the number of clips in it."""
    texts = {row["clip_id"]: row["text_hash"] for row in _chosen_rows(dataset, versions, selection)}
    clips = _selected(dataset, versions, selection).select(["clip_id", "media_sha256", "split"])
    held = [row for row in clips.to_pylist() if row["clip_id"] in texts]
    lines = [selection.model_dump_json()]
    lines += [
        f"{row['clip_id']} {row['media_sha256']} {row['split']} {texts[row['clip_id']]}"
        for row in held
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), len(held)


def _chosen_rows(
    dataset: Dataset, versions: dict[TableName, int], selection: Selection
) -> list[dict[str, str]]:
    return _chosen(dataset, versions, selection).to_pylist()
