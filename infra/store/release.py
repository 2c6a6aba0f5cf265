"""Releases: a name for exactly what a training run reads.

A release pins table versions and a selection, is created exclusively and never edited. Its
digest is a hash of the content that the selection yields (clips, splits, chosen captions), so
the same corpus gives the same digest however often its ingest was interrupted. Tables are joined
and hashed as a stream; what trains reads the release's index (`infra.store.index`).

    release = create(dataset, "2026-11", Selection(min_frames=8))
    with release.rows(["clip_id", "split", "text"]) as batches: ...
"""

import dataclasses
import datetime as dt
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import pyarrow as pa
from pydantic import ValidationError

from infra import storage
from infra.errors import ConfigError, DataError, MissingError
from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.schema import CLIPS, FORMAT, SCHEMAS, TableName
from infra.store.selection import Selection
from infra.store.texts import text_hash

Split = Literal["train", "validation", "test"]

OF_CAPTIONS = ("text", "origin", "recipe_id")
"""Columns of a release's rows that come from the caption that was chosen."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


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

    def rows(
        self, columns: Sequence[str], split: Split | None = None
    ) -> AbstractContextManager[pa.RecordBatchReader]:
        """Give captioned clips as a stream, sorted by clip_id.

        Args:
            columns: Of the clips table, `split`, and what `OF_CAPTIONS` lists.
            split: Only clips of this one.
        """
        return self._sorted(", ".join(f'"{name}"' for name in columns), "clip_id", split)

    def texts(self, split: Split | None = None) -> AbstractContextManager[pa.RecordBatchReader]:
        """Give the distinct texts of captions as a stream, sorted; of one split, or of all."""
        return self._sorted("DISTINCT text", "text", split)

    @contextmanager
    def _sorted(self, wanted: str, by: str, split: Split | None) -> Iterator[pa.RecordBatchReader]:
        sql, values = captioned_sql(self.selection)
        where = "WHERE split = ?" if split else ""
        values += [split] if split else []
        ordered = f"SELECT {wanted} FROM ({sql}) {where} ORDER BY {by}"
        with query(Dataset(self.root), ordered, self.versions, parameters=values) as found:
            yield found

    def clips(self, split: Split | None = None) -> pa.Table:
        """Return captioned clips, sorted by clip_id: the clips table's columns and `split`.

        All in memory; `rows` streams.
        """
        with self.rows([*CLIPS.names, "split"], split) as found:
            return found.read_all()

    def captions(self) -> pa.Table:
        """Return one caption for each clip: clip_id, text, origin, recipe_id, text_hash.

        All in memory; `rows` streams.
        """
        with self.rows(["clip_id", *OF_CAPTIONS]) as found:
            table = found.read_all()
        hashes = [text_hash(str(text)) for text in table["text"].to_pylist()]
        return table.append_column("text_hash", pa.array(hashes, pa.string()))


def create(dataset: Dataset, name: str, selection: Selection) -> Release:
    """Pin the dataset as it is now, under a name; repeating an identical call changes nothing.

    Raises:
        DataError: The name is malformed, is taken by other content, or nothing is selected.
    """
    uri = _uri(dataset.root, name)
    versions: dict[TableName, int] = {table: dataset.version(table) for table in SCHEMAS}
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    release = Release(dataset.root, name, "", versions, selection, 0, now)
    digest, num_clips = digest_of(release)
    if not num_clips:
        raise DataError(
            f"{dataset.root}: no captioned clip matches the selection; ingest and caption first, "
            f"or widen it: {json.dumps(_plain(selection))}"
        )
    release = dataclasses.replace(release, digest=digest, num_clips=num_clips)
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
    try:
        text = storage.read_bytes(uri)
    except MissingError as fault:
        there = ", ".join(names(root)) or "none"
        raise DataError(f"{uri}: no such release; there are: {there}") from fault
    try:
        tree = json.loads(text)
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


def captioned_sql(selection: Selection) -> tuple[str, list[object]]:
    """Return a SELECT of a release's rows, unordered, and its parameters.

    Rows have the columns of the clips table, `split`, and of the chosen caption `OF_CAPTIONS`.
    """
    taken, values = selected_sql(selection)
    recipes = ""
    if selection.recipe_ids:
        marks = ", ".join("?" * len(selection.recipe_ids))
        recipes = f"AND (origin <> 'synthetic' OR recipe_id IN ({marks}))"
    newest = ", ".join(f"{c} DESC NULLS LAST" for c in ("commit_seq", "created_at", "caption_id"))
    return (
        f"WITH selected AS ({taken}), spoken AS ("
        f"SELECT clip_id, {', '.join(OF_CAPTIONS)} FROM captions SEMI JOIN selected USING (clip_id)"
        f" WHERE status = 'ok' AND text IS NOT NULL {recipes} QUALIFY row_number() OVER ("
        f"PARTITION BY clip_id ORDER BY (origin = 'human') DESC NULLS LAST, {newest}) = 1"
        ") SELECT * FROM selected JOIN spoken USING (clip_id)"
    ), [*values, *selection.recipe_ids]


def _uri(root: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"release name {name!r}: use letters, digits, '.', '_' and '-'")
    return storage.join(root, "releases", f"{name}.json")


def _to_json(release: Release) -> bytes:
    tree = {
        "format": FORMAT,
        "digest": release.digest,
        "created_at": release.created_at,
        "num_clips": release.num_clips,
        "selection": _plain(release.selection),
        "versions": release.versions,
    }
    return json.dumps(tree, indent=1).encode()


def _plain(selection: Selection) -> dict[str, Any]:
    """Return a selection as JSON has it: what bounds nothing is left out."""
    tree = selection.model_dump(mode="json", exclude=None if selection.present else {"present"})
    tree["bounds"] = [
        {name: v for name, v in bound.items() if not (isinstance(v, float) and math.isinf(v))}
        for bound in tree["bounds"]
    ]
    return tree


def digest_of(release: Release) -> tuple[str, int]:
    """Return the hash of what the selection yields, and the number of clips in it."""
    total = hashlib.sha256(json.dumps(_plain(release.selection), sort_keys=True).encode())
    num_clips = 0
    with release.rows(["clip_id", "media_sha256", "split", "text"]) as batches:
        for batch in batches:
            columns = (batch.column(index).to_pylist() for index in range(batch.num_columns))
            for clip_id, sha256, split, text in zip(*columns, strict=True):
                total.update(f"\n{clip_id} {sha256} {split} {text_hash(text)}".encode())
            num_clips += len(batch)
    return total.hexdigest(), num_clips
