"""What is said about media: files beside it, members of its tar, tags inside it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra import storage
from infra.errors import DataError, ServiceError
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import SourceEntry
from pipelines.sources.place import is_denied

TEXTS = ("txt", "json")
"""Endings of what may stand beside media, with its stem."""

_TAGS = ("description", "comment", "synopsis", "title", "imagedescription")
_TOO_SHORT = 3  # letters; a tag like "1" says nothing


@dataclass(frozen=True)
class Caption:
    """A text that somebody wrote about a source."""

    text: str
    origin: str = "human"
    lang: str = ""


@dataclass(frozen=True)
class CaptionRefusal:
    """Why a caption is not used; the media is."""

    reason: str
    message: str
    retryable: bool = False
    stage: str = "caption"


@dataclass(frozen=True)
class Said:
    """Everything that is said about a source."""

    captions: list[Caption] = field(default_factory=list)
    metadata: str = ""
    """A JSON object."""
    refusals: list[CaptionRefusal] = field(default_factory=list)


class CaptionError(Exception):
    """A text that cannot be used, with the reason it is counted under."""

    def __init__(self, reason: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.refusal = CaptionRefusal(reason, message[:500], retryable)

    @property
    def told(self) -> str:
        """As `SourceEntry.caption_fault` has it."""
        return f"{self.refusal.reason}: {self.refusal.message}"


def said_of(entry: SourceEntry, settings: SourceSettings | None = None) -> Said:
    """Return what is said about a source; reads the files beside it, where there are any.

    Raises:
        ServiceError: S3 does not answer.
    """
    settings = settings or SourceSettings()
    said = Said(_given(entry), entry.metadata)
    if entry.caption_fault:
        reason, _, message = entry.caption_fault.partition(": ")
        said.refusals.append(CaptionRefusal(reason, message))
    try:
        if entry.caption_uri:
            said.captions.append(Caption(text_of(_read(entry.caption_uri, settings), entry.uri)))
    except CaptionError as fault:
        said.refusals.append(fault.refusal)
    if not entry.metadata_uri:
        return said
    try:
        texts, metadata = json_of(_read(entry.metadata_uri, settings), entry.uri, settings)
    except CaptionError as fault:
        said.refusals.append(fault.refusal)
        return said
    captions = said.captions or [Caption(text) for text in texts]
    return Said(captions, metadata or said.metadata, said.refusals)


def tag_caption(tags: Mapping[str, str]) -> Caption | None:
    """Return what a container's tags say about its content, for sources without any caption."""
    found = {key.lower(): " ".join(text.split()) for key, text in tags.items()}
    for key in _TAGS:
        text = found.get(key, "")
        if sum(letter.isalpha() for letter in text) >= _TOO_SHORT:
            return Caption(text, "alt_text")
    return None


def text_of(data: bytes, place: str) -> str:
    """Return the text of a caption file.

    Raises:
        CaptionError: It is not UTF-8, or empty.
    """
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as fault:
        raise CaptionError("caption_not_utf8", f"{place}: {fault}") from fault
    if not text:
        raise CaptionError("caption_empty", f"{place}: no text")
    return text


def json_of(data: bytes, place: str, settings: SourceSettings) -> tuple[list[str], str]:
    """Return the captions in a JSON object and its other keys as JSON.

    Raises:
        CaptionError: It is no JSON object, or its caption is no text.
    """
    try:
        tree = json.loads(text_of(data, place))
    except (ValueError, RecursionError) as fault:
        raise CaptionError("caption_not_json", f"{place}: {fault}") from fault
    if not isinstance(tree, dict):
        raise CaptionError("caption_not_json", f"{place}: an object is needed, not {tree!r:.60}")
    caption = tree.pop(settings.caption_key, None)
    return texts_of(caption, place), metadata_of(tree, place, settings)


def texts_of(value: object, place: str) -> list[str]:
    """Return the captions in a field: a text, a list of them, or nothing.

    Raises:
        CaptionError: It is something else, or cannot be written as UTF-8.
    """
    texts = value if isinstance(value, list) else [] if value is None else [value]
    found = [text.strip() for text in texts if isinstance(text, str)]
    if len(found) < sum(text is not None for text in texts):
        raise CaptionError("caption_no_text", f"{place}: {value!r:.60} is no text")
    try:
        "".join(found).encode()
    except UnicodeEncodeError as fault:  # JSON may escape half a character
        raise CaptionError("caption_not_utf8", f"{place}: {value!r:.60}") from fault
    return [text for text in found if text]


def metadata_of(tree: Mapping[str, Any], place: str, settings: SourceSettings) -> str:
    """Return a JSON object of what has a value; empty for nothing.

    Raises:
        CaptionError: It is longer than it may be.
    """
    held = {key: value for key, value in tree.items() if not _is_nothing(value)}
    if not held:
        return ""
    try:
        text = json.dumps(held, ensure_ascii=False, default=str, sort_keys=True, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError) as fault:
        raise CaptionError("metadata_not_json", f"{place}: {fault}") from fault
    if len(text) > settings.max_caption_kib << 10:
        raise CaptionError(
            "metadata_too_long",
            f"{place}: {len(text)} letters, at most {settings.max_caption_kib} KiB "
            "(setting sources.max_caption_kib)",
        )
    return text


def _is_nothing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _given(entry: SourceEntry) -> list[Caption]:
    texts = [entry.caption] if entry.caption else []
    texts += json.loads(entry.more_captions) if entry.more_captions else []
    return [Caption(text, entry.caption_origin, entry.caption_lang) for text in texts]


def _read(uri: str, settings: SourceSettings) -> bytes:
    limit_bytes = settings.max_caption_kib << 10
    try:
        data = storage.read_range(uri, 0, limit_bytes + 1)
    except (DataError, ServiceError) as fault:
        if isinstance(fault, ServiceError) and not is_denied(fault):
            raise
        raise CaptionError("caption_unreadable", str(fault), retryable=True) from fault
    if len(data) > limit_bytes:
        raise CaptionError(
            "caption_too_long",
            f"{uri}: more than {settings.max_caption_kib} KiB (setting sources.max_caption_kib)",
        )
    return data
