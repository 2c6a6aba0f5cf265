"""Media below a folder, prefix or glob, and in tars there, each with what stands beside it."""

import dataclasses
import functools
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from infra import storage
from infra.errors import DataError
from infra.storage import FileInfo
from pipelines.sources import partition
from pipelines.sources.ahead import Reader, in_order
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import (
    SourceEntry,
    digest,
    file_stamp,
    member_uri,
    refused,
    said_stamp,
)
from pipelines.sources.sidecar import TEXTS, CaptionError, json_of, text_of
from pipelines.sources.tar import Member, members

log = logging.getLogger(__name__)

TAR = "tar"
_MOST_WAITING = 64  # media, and stems with texts, of names within each other: more is hostile
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Named:
    """A file or member by its name, with what is known of it."""

    name: str
    item: FileInfo | Member


def base_of(pattern: str) -> str:
    """Return the folder below which a glob looks."""
    found = _MAGIC.search(pattern)
    assert found is not None
    return pattern[: found.start()].rpartition("/")[0] or "/"


def is_glob(source: str) -> bool:
    """Return whether an address has wildcards."""
    return _MAGIC.search(source) is not None


def globbed(pattern: str, with_texts: bool = False) -> Iterator[FileInfo]:
    """Yield the files that a glob names: `*` and `?` within a folder, `**` across folders.

    Args:
        pattern: An absolute address with wildcards.
        with_texts: Whether every .txt and .json is given too, to stand beside what is named.
    """
    accepts = re.compile(_regex(pattern), re.DOTALL)
    for info in storage.list_files(base_of(pattern)):
        if accepts.fullmatch(info.uri) or (with_texts and _suffix(info.uri) in TEXTS):
            yield info


def list_folder(
    root: str,
    infos: Iterable[FileInfo],
    settings: SourceSettings,
    suffixes: tuple[str, ...],
    source: str = "",
) -> Iterator[SourceEntry]:
    """Yield the media among files, in order; tars are opened.

    Args:
        root: The folder that partitions are counted from.
        infos: Files, sorted by name.
        settings: How they are grouped.
        suffixes: Endings of media.
        source: What messages call it.

    Raises:
        DataError: There is no file at all, or none is media.
    """
    num_files = num_media = 0
    prefix = root.rstrip("/") + "/"

    def counted() -> Iterator[Named]:
        nonlocal num_files
        for info in infos:
            num_files += 1
            if not _is_hidden(info.uri.removeprefix(prefix)):
                yield Named(info.uri, info)

    def parts() -> Iterator[SourceEntry | Reader]:
        for media, beside in _paired(counted(), (*suffixes, TAR)):
            assert isinstance(media.item, FileInfo)
            if _suffix(media.name) == TAR:
                yield functools.partial(list_tar, media.item, prefix, settings, suffixes)
            else:
                yield _file_entry(media.item, beside, prefix, settings)

    for entry in in_order(parts(), settings.parallel_checks):
        num_media += 1
        yield entry
    _check(source or root, num_files, num_media, suffixes)


def list_tar(
    info: FileInfo, prefix: str, settings: SourceSettings, suffixes: tuple[str, ...]
) -> Iterator[SourceEntry]:
    """Yield the media in a tar, in order, and an entry that says why for each bad member."""
    below = info.uri.removeprefix(prefix)
    name = below.rpartition("/")[2]
    part = partition.of_file(below, info.modified_ns, settings, tar=name)
    pairing = _Pairing(suffixes)
    for member in members(info, TEXTS, settings):
        if member.refusal:
            reason, _, message = member.refusal.partition(": ")
            uri = member_uri(info.uri, member.name) if member.name else info.uri
            yield refused(uri, part, reason, message)
        elif not _is_hidden(member.name):
            for media, beside in pairing.add(Named(member.name, member)):
                yield _member_entry(info, part, media, beside, settings)
    for media, beside in pairing.rest():
        yield _member_entry(info, part, media, beside, settings)


def _file_entry(
    info: FileInfo, beside: dict[str, Named], prefix: str, settings: SourceSettings
) -> SourceEntry:
    texts = [each.item for each in beside.values() if isinstance(each.item, FileInfo)]
    below = info.uri.removeprefix(prefix)
    return SourceEntry(
        info.uri,
        partition.of_file(below, info.modified_ns, settings),
        file_stamp(info),
        info.uri,
        size_bytes=info.size_bytes,
        caption_uri=beside["txt"].name if "txt" in beside else "",
        metadata_uri=beside["json"].name if "json" in beside else "",
        caption_stamp=digest(*(f"{t.uri} {file_stamp(t)}" for t in texts)) if texts else "",
    )


def _member_entry(
    info: FileInfo, part: str, media: Named, beside: dict[str, Named], settings: SourceSettings
) -> SourceEntry:
    member = media.item
    assert isinstance(member, Member)
    entry = SourceEntry(
        member_uri(info.uri, member.name),
        part,
        f"{file_stamp(info)} {member.offset}",
        info.uri,
        member.offset,
        member.size_bytes,
        member.size_bytes,
    )
    entry = _with_texts(entry, beside, settings)
    return dataclasses.replace(entry, caption_stamp=said_stamp(entry))


def _with_texts(
    entry: SourceEntry, beside: dict[str, Named], settings: SourceSettings
) -> SourceEntry:
    """Return the entry with the texts of its tar members; a bad one leaves the other."""
    texts: list[str] = []
    metadata = fault = ""
    try:
        if "txt" in beside:
            texts = [text_of(_text(beside["txt"], settings), beside["txt"].name)]
    except CaptionError as raised:
        fault = raised.told
    try:
        if "json" in beside:
            named = beside["json"]
            others, metadata = json_of(_text(named, settings), named.name, settings)
            texts = texts or others
    except CaptionError as raised:
        fault = fault or raised.told
    return dataclasses.replace(
        entry,
        caption=texts[0] if texts else "",
        more_captions=json.dumps(texts[1:], ensure_ascii=False) if texts[1:] else "",
        metadata=metadata,
        caption_fault=fault,
    )


def _text(named: Named, settings: SourceSettings) -> bytes:
    assert isinstance(named.item, Member)
    if named.item.data is None:
        raise CaptionError(
            "caption_too_long",
            f"{named.name}: {named.item.size_bytes} bytes, at most {settings.max_caption_kib} KiB "
            "(setting sources.max_caption_kib)",
        )
    return named.item.data


def _paired(
    files: Iterable[Named], suffixes: tuple[str, ...]
) -> Iterator[tuple[Named, dict[str, Named]]]:
    """Yield media with the texts of its stem, by ending."""
    pairing = _Pairing(suffixes)
    for file in files:
        yield from pairing.add(file)
    yield from pairing.rest()


class _Pairing:
    """Media and texts that wait for each other.

    Names that share `stem.` stand together in a sorted listing and in a WebDataset tar, so media
    and texts wait only until a name without their stem comes, or too many wait.
    """

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self._suffixes = suffixes
        self._media: list[Named] = []
        self._texts: dict[str, dict[str, Named]] = {}

    def add(self, file: Named) -> list[tuple[Named, dict[str, Named]]]:
        """Add a name; return the media that waits no longer."""
        waiting = [each for each in self._media if file.name.startswith(_stem(each.name))]
        first = max(0, len(waiting) - _MOST_WAITING)
        ready = [each for each in self._media if not file.name.startswith(_stem(each.name))]
        done = self._with_texts([*ready, *waiting[:first]])
        self._media = waiting[first:]
        texts = {stem: own for stem, own in self._texts.items() if file.name.startswith(stem)}
        self._texts = dict(list(texts.items())[-_MOST_WAITING:])
        suffix, stem = _suffix(file.name), _stem(file.name)
        if suffix in TEXTS:
            self._texts.setdefault(stem, {})[suffix] = file
        elif suffix in self._suffixes:
            self._media.append(file)
        return done

    def rest(self) -> list[tuple[Named, dict[str, Named]]]:
        """Return the media that waits yet."""
        return self._with_texts(self._media)

    def _with_texts(self, media: list[Named]) -> list[tuple[Named, dict[str, Named]]]:
        return [(each, self._texts.get(_stem(each.name), {})) for each in media]


def _is_hidden(below: str) -> bool:
    return any(part.startswith(".") for part in below.removeprefix("./").split("/"))


def _stem(name: str) -> str:
    """Return a name up to and with its last dot; the name itself where it has none."""
    head, dot, _ = name.rpartition(".")
    return head + dot if dot and "/" not in name[len(head) :] else name


def _suffix(name: str) -> str:
    stem = _stem(name)
    return name[len(stem) :].lower()


def _check(source: str, num_files: int, num_media: int, suffixes: tuple[str, ...]) -> None:
    if num_media:
        return
    if num_files:
        raise DataError(
            f"source {source}: none of its {num_files} files is media; accepted endings: "
            f"{', '.join((*suffixes, TAR))} (setting ingest.accept.suffixes)"
        )
    if is_glob(source):
        raise DataError(f"source {source}: matches nothing; check the pattern")
    way_out = "put videos or images there"
    if storage.is_s3(source):
        way_out = f"check bucket and prefix, or {way_out}"
    raise DataError(f"source {source}: the folder is empty; {way_out}")


def _is_class(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:  # such as a range that runs backwards
        return False
    return True


def _regex(pattern: str) -> str:
    """Return a glob as a regular expression."""
    out, at = "", 0
    while at < len(pattern):
        token = _token(pattern, at)
        out += _MEANT.get(token) or (_class(token) if token[0] == "[" else re.escape(token))
        at += len(token)
    return out


_MEANT = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _token(pattern: str, at: int) -> str:
    for token in ("**/", "**", "*", "?"):
        if pattern.startswith(token, at):
            return token
    close = pattern.find("]", at + 2)
    return pattern[at : close + 1] if pattern[at] == "[" and close > 0 else pattern[at]


def _class(token: str) -> str:
    inner = re.sub(r"([\\\[&~|])", r"\\\1", token[1:-1])
    if inner in ("", "!", "^") or not _is_class(f"[{inner}]"):
        return re.escape(token)
    return f"(?!/)[^{inner[1:]}]" if inner[0] in "!^" else f"[{inner}]"
