"""Lists and manifests: each row names one video or image, wherever it lies.

A row that cannot be used is an entry with its refusal, so that one bad row among millions is
counted and told, and stops nothing.
"""

import collections
import contextlib
import functools
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra import storage
from infra.errors import ConfigError, DataError, ServiceError
from pipelines.sources import partition
from pipelines.sources.address import FetchError, bare, is_web, parsed
from pipelines.sources.ahead import Reader, in_order
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import (
    MISSING,
    UNCHECKED,
    SourceEntry,
    file_stamp,
    member_uri,
    refused,
    said_stamp,
)
from pipelines.sources.folder import TAR, list_tar
from pipelines.sources.place import facts_of, is_denied
from pipelines.sources.rows import LISTS, TABLES, BadRow, Row, read_rows
from pipelines.sources.sidecar import CaptionError, metadata_of, texts_of
from pipelines.sources.sink import Sink
from pipelines.sources.web import download

_MAX_URI = 8192  # letters


def is_manifest(uri: str) -> bool:
    """Return whether a name ends like a list or manifest."""
    return suffix_of(uri) in (*LISTS, *TABLES)


def list_manifest(
    uri: str, settings: SourceSettings, suffixes: tuple[str, ...]
) -> Iterator[SourceEntry]:
    """Yield what a list or manifest names, in its order; tars that it names are opened.

    Raises:
        DataError: It cannot be read, lacks a column, or names nothing.
        ConfigError: It names web addresses, and no host is allowed.
    """
    num_entries = 0
    with _local(uri, settings) as path:
        rows = read_rows(path, suffix_of(uri), uri, settings.manifest)
        entries = (_entry(row, number, uri, settings) for number, row in rows)
        parts = (_part(entry, settings, suffixes) for entry in _checked(entries, settings))
        for entry in in_order(parts, settings.parallel_checks):
            num_entries += 1
            yield entry
    if not num_entries:
        raise DataError(f"source {uri}: names nothing; put one address a line or row there")


def _part(
    entry: SourceEntry, settings: SourceSettings, suffixes: tuple[str, ...]
) -> SourceEntry | Reader:
    if suffix_of(entry.location) == TAR and not entry.refusal:
        return functools.partial(_opened, entry, settings, suffixes)
    return entry


def _opened(
    entry: SourceEntry, settings: SourceSettings, suffixes: tuple[str, ...]
) -> Iterator[SourceEntry]:
    """Yield the media in a tar that a row names."""
    try:
        info = facts_of(entry.location, settings)
    except FetchError as fault:
        yield refused(entry.uri, entry.partition, fault.reason, fault.message)
        return
    except ServiceError as fault:
        if not is_denied(fault):
            raise
        yield refused(entry.uri, entry.partition, "no_access", str(fault))
        return
    if info is None:
        yield entry  # it is told when it is read
        return
    for member in list_tar(info, info.uri.rpartition("/")[0] + "/", settings, suffixes):
        by_tar = settings.partition_by != "folder"
        yield member if by_tar else replace(member, partition=entry.partition)


@contextlib.contextmanager
def _local(uri: str, settings: SourceSettings) -> Iterator[Path]:
    """Give a local copy of a list or manifest, itself where it is local."""
    if not is_web(uri) and not storage.is_s3(uri):
        path = storage.local_path(uri)
        if not path.is_file():
            raise DataError(f"source {uri}: no such file")
        yield path
        return
    limit_bytes = settings.manifest.max_mib << 20
    with tempfile.TemporaryDirectory(prefix="snapvideo-") as scratch:
        path = Path(scratch, "manifest")
        if not is_web(uri):
            storage.copy_to(uri, path, limit_bytes)
            yield path
            return
        try:
            with Sink(path) as sink:
                download(uri, settings.http, limit_bytes, sink.write)
        except FetchError as fault:
            raise DataError(f"source {uri}: {fault}") from fault
        yield path


def _entry(row: Row | BadRow, number: int, place: str, settings: SourceSettings) -> SourceEntry:
    name = f"{place}!/row-{number}"
    part = partition.of_row(name, "", "", settings)
    if isinstance(row, BadRow):
        return refused(name, part, row.reason, row.message)
    columns = settings.manifest
    uri = row.get(columns.uri_column)
    if not isinstance(uri, str) or not uri.strip() or len(uri) > _MAX_URI:
        what = f"{type(uri).__name__} of {len(uri)} letters" if isinstance(uri, str) else repr(uri)
        message = f"{place}: row {number}: '{columns.uri_column}' holds no address ({what[:60]})"
        return refused(name, part, "bad_row", message)
    try:
        uri, below = _placed(uri, place, settings)
    except FetchError as fault:
        shown = uri.encode(errors="backslashreplace").decode()
        shown = shown if "://" in uri or uri.startswith("/") else member_uri(place, shown)
        return refused(shown, part, fault.reason, fault.message)
    part = partition.of_row(uri, below, _field(row, columns.date_column), settings)
    if columns.partition_column:
        part = _field(row, columns.partition_column).strip() or partition.LOOSE
    if not partition.is_name(part):
        message = f"{place}: row {number}: {part!r:.100} cannot name a partition"
        return refused(uri, partition.LOOSE, "bad_partition", message)
    stamp = _field(row, columns.stamp_column)
    return _with_texts(SourceEntry(uri, part, stamp, uri), row, settings)


def _field(row: Row, column: str) -> str:
    text = str(row.get(column) or "") if column else ""
    return text.encode(errors="replace").decode()  # JSON may escape half a character


def _with_texts(entry: SourceEntry, row: Row, settings: SourceSettings) -> SourceEntry:
    """Return the entry with captions, language and metadata of its row; a bad one leaves others."""
    columns = settings.manifest
    captions = columns.caption_columns or (("caption",) if "caption" in row else ())
    lang = _field(row, columns.lang_column)
    taken = {columns.uri_column, columns.lang_column, *captions}
    others: dict[str, Any] = {key: value for key, value in row.items() if key not in taken}
    texts: list[str] = []
    metadata = fault = ""
    try:
        texts = [text for name in captions for text in texts_of(row.get(name), entry.uri)]
    except CaptionError as raised:
        fault = raised.told
    try:
        metadata = metadata_of(others, entry.uri, settings)
    except CaptionError as raised:
        fault = fault or raised.told
    entry = replace(
        entry,
        caption=texts[0] if texts else "",
        more_captions=json.dumps(texts[1:], ensure_ascii=False) if texts[1:] else "",
        metadata=metadata,
        caption_fault=fault,
        caption_origin=columns.caption_origin,
        caption_lang=lang,
    )
    return replace(entry, caption_stamp=said_stamp(entry))


def _placed(uri: str, place: str, settings: SourceSettings) -> tuple[str, str]:
    """Return the whole address that a row names, and its path below the manifest's folder.

    Raises:
        FetchError: The row may not name it.
    """
    if _is_broken(uri):
        raise FetchError("bad_uri", f"{uri!r:.200} is not UTF-8 or has a zero byte", False)
    if is_web(uri):
        if not settings.http.hosts:
            raise ConfigError(
                f"{place}: names {uri[:200]}, and sources.http.hosts allows no host; name the "
                "hosts that may be asked there, such as media.example.org or *.example.org"
            )
        parsed(uri, settings.http)
        return uri, ""
    if "://" in uri and not uri.startswith(("s3://", "file://")):
        raise FetchError(
            "forbidden_scheme", f"{uri}: accepted: a path, file://, s3://, http(s)://", False
        )
    return _inside(uri, place, settings)


def _inside(uri: str, place: str, settings: SourceSettings) -> tuple[str, str]:
    folder = bare(place).rpartition("/")[0] + "/"
    is_remote = is_web(place) or storage.is_s3(place)
    path = uri.removeprefix("file://")
    if storage.is_s3(path):
        whole = path
    elif path.startswith("/"):
        if is_remote and not settings.manifest.allow_outside:
            message = f"{uri}: a manifest in S3 or on the web may not name local files"
            raise _outside(message)
        whole = path
    else:
        whole = folder + path.removeprefix("./")
    if ".." in path.split("/"):
        if not settings.manifest.allow_outside:
            raise _outside(f"{uri}: '..' is not followed")
        whole = whole if is_remote else str(Path(whole).resolve())
    return whole, whole.removeprefix(folder) if whole.startswith(folder) else ""


def _outside(message: str) -> FetchError:
    hint = "(setting sources.manifest.allow_outside)"
    return FetchError("outside", f"{message} {hint}", False)


def _checked(entries: Iterator[SourceEntry], settings: SourceSettings) -> Iterator[SourceEntry]:
    """Yield entries with stamps and sizes, in order; some requests at a time where it takes any."""
    waiting: collections.deque[SourceEntry | Future[SourceEntry]] = collections.deque()
    with ThreadPoolExecutor(settings.parallel_checks) as pool:
        for entry in entries:
            asks = is_web(entry.location) or storage.is_s3(entry.location)
            if entry.refusal or (asks and not (settings.check_changes and not entry.stamp)):
                waiting.append(replace(entry, stamp=entry.stamp or UNCHECKED))
            elif asks:
                waiting.append(pool.submit(_stamped, entry, settings))
            else:
                waiting.append(_stamped(entry, settings))
            if len(waiting) > 4 * settings.parallel_checks:
                yield _done(waiting.popleft())
        while waiting:
            yield _done(waiting.popleft())


def _done(entry: SourceEntry | Future[SourceEntry]) -> SourceEntry:
    return entry.result() if isinstance(entry, Future) else entry


def _stamped(entry: SourceEntry, settings: SourceSettings) -> SourceEntry:
    try:
        found = facts_of(entry.location, settings)
    except (FetchError, ServiceError) as fault:
        if isinstance(fault, ServiceError) and not is_denied(fault):
            raise
        return replace(entry, stamp=entry.stamp or UNCHECKED)  # told when it is read
    if found is None:
        return replace(entry, stamp=entry.stamp or MISSING)
    part = entry.partition
    if part == partition.UNDATED and found.modified_ns:
        part = partition.day_of(found.modified_ns)
    stamp = entry.stamp or file_stamp(found)
    return replace(entry, stamp=stamp, size_bytes=found.size_bytes, partition=part)


def _is_broken(uri: str) -> bool:
    return "\0" in uri or any("\ud800" <= letter <= "\udfff" for letter in uri)


def suffix_of(uri: str) -> str:
    """Return the ending of a name in lower case, without a URL's query."""
    name = bare(uri).rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""
