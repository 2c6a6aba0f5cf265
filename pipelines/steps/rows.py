"""Turn what tasks found into rows of the tables; plain functions without I/O but one look-up.

Rows of sources whose clips were new with this commit cannot be there yet; all others may be, from
a run that was killed between two tables. `Sorted` keeps them apart.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from infra.store.dataset import Dataset
from infra.store.query import query
from pipelines.scores.versions import VERSIONS

Row = dict[str, Any]

_LOOSE = """
SELECT q.source_uri FROM (
  SELECT source_uri, max("at") AS "at" FROM quarantine WHERE stage <> 'filter' GROUP BY source_uri
) q LEFT JOIN (SELECT source_uri, max("at") AS "at" FROM sources GROUP BY source_uri) s
USING (source_uri) WHERE s."at" IS NULL OR q."at" > s."at"
"""

_COPIED = (
    "source_uri", "partition", "stamp", "caption_stamp", "source_id", "attempts", "size_bytes",
    "metadata",
)  # fmt: skip


@dataclass(frozen=True)
class Sorted:
    """Rows that cannot be in a table yet, and rows that may be."""

    new: list[Row] = field(default_factory=list)
    old: list[Row] = field(default_factory=list)

    def of(self, is_new: bool) -> list[Row]:
        """Return one of the two."""
        return self.new if is_new else self.old


@dataclass(frozen=True)
class Held:
    """A clip that is in the table, as far as captions need it."""

    clip_id: str
    media_sha256: str
    shot_index: int


def owners(batch: Iterable[Row]) -> dict[str, Row]:
    """Return the first source with clips of each content."""
    found: dict[str, Row] = {}
    for row in batch:
        if row["clips"]:
            found.setdefault(row["source_id"], row)
    return found


def is_refused(row: Row) -> bool:
    """Say whether a source gave nothing."""
    return not row["known"] and not row["clips"]


def clips_of(row: Row) -> list[Held]:
    """Return the clips that a source gave."""
    return [_held(clip["row"]) for clip in row["clips"]]


def held_clips(
    dataset: Dataset, source_ids: Collection[str], transform_id: str
) -> dict[str, list[Held]]:
    """Return the clips that the table has of some sources, none of those that it has not."""
    found: dict[str, list[Held]] = {source_id: [] for source_id in source_ids}
    if not found:
        return found
    where = pc.field("transform_id") == transform_id
    where &= pc.field("source_id").isin(sorted(found))
    columns = ["clip_id", "media_sha256", "shot_index", "source_id"]
    for row in dataset.read("clips", columns=columns, where=where).to_pylist():
        found[row["source_id"]].append(_held(row))
    return found


def source_row(row: Row) -> Row:
    """Return a row of the table `sources`."""
    refused = is_refused(row)
    refusal = row["refusals"][-1] if refused else {"reason": "", "retryable": False}
    return {name: row[name] for name in _COPIED} | {
        "status": "refused" if refused else "ok",
        "reason": refusal["reason"],
        "retryable": refusal["retryable"],
        "num_clips": None if row["known"] else len(row["clips"]),
    }


def newest_texts(dataset: Dataset, clips: Sequence[Held]) -> dict[str, set[str]]:
    """Return what the last commit that described a clip said, for each clip that is described."""
    if not clips:
        return {}
    where = pc.field("clip_id").isin(sorted({clip.clip_id for clip in clips}))
    where &= pc.field("origin") != "synthetic"
    rows = dataset.read("captions", columns=["clip_id", "text", "commit_seq"], where=where)
    last: dict[str, int] = {}
    texts: dict[str, set[str]] = {}
    for row in rows.sort_by("commit_seq").to_pylist():
        if last.get(row["clip_id"]) != row["commit_seq"]:
            last[row["clip_id"]], texts[row["clip_id"]] = row["commit_seq"], set()
        texts[row["clip_id"]].add(row["text"])
    return texts


def caption_rows(
    described: Iterable[Row],
    held: Mapping[str, Sequence[Held]],
    fresh: Collection[str],
    newest: Mapping[str, Collection[str]],
) -> Sorted:
    """Return each caption of a source for each of its clips, none twice.

    Args:
        described: Rows of sources with captions.
        held: The clips of each content.
        fresh: Contents whose clips were not there before.
        newest: What was said last of clips whose source is described anew.
    """
    rows = Sorted()
    seen: set[str] = set()
    for row in described:
        target = rows.of(row["source_id"] in fresh)
        texts = {caption["text"] for caption in row["captions"]}
        for clip in held[row["source_id"]]:
            if row["why"] == "recaptioned" and texts == newest.get(clip.clip_id):
                continue
            for caption in row["captions"]:
                said = row["caption_stamp"] if row["why"] == "recaptioned" else ""
                made = _caption_row(clip, caption, said)
                if made["caption_id"] not in seen:
                    seen.add(made["caption_id"])
                    target.append(made)
    return rows


def score_rows(first: Mapping[str, Row], fresh: Collection[str]) -> Sorted:
    """Return the scores of the clips that a batch made."""
    rows = Sorted()
    for source_id, row in first.items():
        rows.of(source_id in fresh).extend(
            score | {"clip_id": clip["row"]["clip_id"], "version": VERSIONS[score["scorer"]]}
            for clip in row["clips"]
            for score in clip["scores"]
        )
    return rows


def quarantine_rows(
    batch: Iterable[Row],
    first: Mapping[str, Row],
    fresh: Collection[str],
    loose: Collection[str],
) -> Sorted:
    """Return what is refused of the sources of a batch.

    Args:
        batch: Rows of sources.
        first: The first source of each content.
        fresh: Contents whose clips were not there before.
        loose: Sources of which a killed run left rows.
    """
    rows = Sorted()
    for row in batch:
        made = row["source_id"] in fresh and first[row["source_id"]] is row
        is_new = made or (row["why"] == "new" and row["source_uri"] not in loose)
        same = {name: row[name] for name in ("source_uri", "source_id", "attempts")}
        rows.of(is_new).extend(refusal | same for refusal in row["refusals"])
    return rows


def loose_ends(dataset: Dataset) -> frozenset[str]:
    """Return the sources that runs refused and then died before they had noted that as done."""
    with query(dataset, _LOOSE) as rows:
        return frozenset(map(str, rows.read_all()["source_uri"].to_pylist()))


def _held(row: Row) -> Held:
    return Held(row["clip_id"], row["media_sha256"], row["shot_index"])


def _caption_row(clip: Held, caption: Row, said: str) -> Row:
    """Return a caption; one that comes later is another one, also where its text was there before.

    So of texts that change to and fro the newest stands last.
    """
    words = f"{clip.clip_id} {caption['origin']} {caption['text']} {said}".rstrip()
    return {
        "clip_id": clip.clip_id,
        "caption_id": hashlib.sha256(words.encode()).hexdigest()[:32],
        "text": caption["text"],
        "lang": caption["lang"],
        "origin": caption["origin"],
        "status": "ok",
        "media_sha256": clip.media_sha256,
    }
