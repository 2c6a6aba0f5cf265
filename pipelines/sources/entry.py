"""One source as it is listed: what it is called, where its bytes lie, what is said about it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import pyarrow as pa

from infra.storage import FileInfo

ALL = -1
"""As a length: everything from the offset on."""

MISSING = "missing"
"""Stamp of a file that is named but not there."""

UNCHECKED = "?"
"""Stamp of what nobody asked about: it counts as unchanged where it is known."""

_MEMBER = "!/"


@dataclass(frozen=True)
class SourceEntry:
    """One video or image of a source."""

    uri: str
    """Its name in the tables."""
    partition: str
    stamp: str
    """Changes when the media may have changed."""
    location: str
    """What is opened: a path, s3://... or http(s)://..."""
    offset: int = 0
    length: int = ALL
    size_bytes: int = -1
    """-1 where nobody has told yet."""
    caption: str = ""
    """What a manifest or tar says; sidecar files are read with the media."""
    caption_origin: str = "human"
    caption_lang: str = ""
    more_captions: str = ""
    """JSON array of further texts, of the same origin and language."""
    caption_uri: str = ""
    """A .txt beside the media."""
    metadata_uri: str = ""
    """A .json beside the media."""
    caption_stamp: str = ""
    """Changes when what is said about the media may have changed."""
    caption_fault: str = ""
    """`reason: message`, where a caption cannot be used but the media can."""
    metadata: str = ""
    """A JSON object."""
    refusal: str = ""
    """`reason: message`, where the entry cannot be used; its media is not looked at."""


_TYPES: dict[object, pa.DataType] = {
    "str": pa.string(),
    "int": pa.int64(),
    str: pa.string(),
    int: pa.int64(),
}

ENTRIES: pa.Schema = pa.schema(
    [(field.name, _TYPES[field.type]) for field in dataclasses.fields(SourceEntry)]
)
"""Entries as Arrow columns."""

_values = attrgetter(*ENTRIES.names)


def to_table(entries: Iterable[SourceEntry]) -> pa.Table:
    """Return entries as rows."""
    columns = list(zip(*map(_values, entries), strict=True)) or [()] * len(ENTRIES)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, ENTRIES, strict=True)],
        schema=ENTRIES,
    )


def from_rows(rows: pa.Table | pa.RecordBatch) -> list[SourceEntry]:
    """Return rows as entries; further columns, as a plan has them, are left aside."""
    columns = [rows[name].to_pylist() for name in ENTRIES.names]
    return [SourceEntry(*values) for values in zip(*columns, strict=True)]


def member_uri(tar_uri: str, name: str) -> str:
    """Return what a member of a tar is called."""
    return f"{tar_uri}{_MEMBER}{name}"


def refused(uri: str, partition: str, reason: str, message: str) -> SourceEntry:
    """Return an entry that cannot be used; it counts as changed when the reason is another."""
    refusal = f"{reason}: {message[:500]}"
    return SourceEntry(uri, partition, digest(refusal), uri, refusal=refusal)


def file_stamp(info: FileInfo) -> str:
    """Return what changes when a file of a listing does."""
    return f"{info.size_bytes} {info.etag or info.modified_ns}"


def said_stamp(entry: SourceEntry) -> str:
    """Return what changes when the texts of an entry do; empty where nothing is said."""
    said = [
        entry.caption, entry.more_captions, entry.caption_lang, entry.metadata, entry.caption_fault,
    ]  # fmt: skip
    return digest(*said, entry.caption_origin) if any(said) else ""


def digest(*words: str) -> str:
    """Return a hash of some words, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
