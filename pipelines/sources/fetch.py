"""The bytes of one source, as they were at one moment, with the hash that names them.

    with fetched(entry, settings) as media:
        scan(media.data, ...)

Local files are used in place, what is remote is read into memory or a temporary file. A source
that changes meanwhile is tried again, then refused; a fault of S3 itself stops the run.
"""

import contextlib
import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from infra import storage
from infra.errors import DataError, ServiceError
from infra.storage import ChangedError, FileInfo
from pipelines.sources.address import FetchError, is_web
from pipelines.sources.config import SourceSettings
from pipelines.sources.entry import ALL, SourceEntry
from pipelines.sources.place import facts_of, is_denied, local_facts, read_part
from pipelines.sources.sink import ScratchError, Sink, scratch_error
from pipelines.sources.web import download

log = logging.getLogger(__name__)

_PIECE = 8 << 20
_PASSING = (
    *("changed_while_read", "timeout", "no_answer", "broke_off"),
    *("http_408", "http_425", "http_429", "http_500", "http_502", "http_503", "http_504"),
)
"""Reasons that may be gone a second later."""


@dataclass(frozen=True)
class Fetched:
    """The bytes of a source and what names them."""

    data: bytes | Path = field(repr=False)
    source_id: str
    """SHA-256 of the bytes."""
    size_bytes: int
    watched: FileInfo | None = None
    """A local file that is used in place, as it was."""


@contextlib.contextmanager
def fetched(
    entry: SourceEntry, settings: SourceSettings, limit_bytes: int = 4 << 30
) -> Iterator[Fetched]:
    """Give the bytes of a source for the time of the block.

    Args:
        entry: Which.
        settings: How it is read.
        limit_bytes: Largest source that is read.

    Raises:
        FetchError: It is not there, empty, too large, forbidden, or it changed while it was read;
            the last also at the end of the block.
        ServiceError: S3 does not answer.
        DataError: The temporary folder is full.
    """
    if entry.refusal:
        reason, _, message = entry.refusal.partition(": ")
        raise FetchError(reason, message, retryable=reason in _PASSING)
    with contextlib.ExitStack() as held:
        try:
            scratch = held.enter_context(tempfile.TemporaryDirectory(prefix="snapvideo-"))
        except OSError as fault:
            raise scratch_error(Path(fault.filename or "TMPDIR").parent, fault) from fault
        place = Path(scratch, "media")
        media = _tried(
            entry, settings, lambda turn: _taken(entry, settings, limit_bytes, place, turn)
        )
        try:
            yield media
        except DataError as fault:  # the bytes are blamed: are they still those?
            _check_same(media, fault)
            raise
        _check_same(media, None)


def _tried(entry: SourceEntry, settings: SourceSettings, take: Callable[[int], Fetched]) -> Fetched:
    """Return what `take` gives, at the latest in the last of some attempts."""
    for turn in range(1, settings.attempts + 1):
        try:
            return take(turn)
        except (DataError, ServiceError, OSError) as raised:
            fault = _told(entry, raised)
            if turn == settings.attempts or fault.reason not in _PASSING:
                raise fault from raised
            log.info("tried again uri=%s turn=%d fault=%s", entry.uri, turn, fault)
        time.sleep(settings.retry_wait_s * 2 ** (turn - 1))
    raise AssertionError("the last attempt returns or raises")


def _told(entry: SourceEntry, fault: DataError | ServiceError | OSError) -> FetchError:
    """Return what a fault means for this source; one that is not the source's is raised."""
    if isinstance(fault, FetchError):
        return fault
    if isinstance(fault, ChangedError):
        return FetchError("changed_while_read", str(fault))
    if is_denied(fault):
        return FetchError("no_access", str(fault))
    if isinstance(fault, ServiceError | ScratchError):
        raise fault
    return FetchError("unreadable_file", str(fault))


def _taken(
    entry: SourceEntry, settings: SourceSettings, limit_bytes: int, place: Path, turn: int
) -> Fetched:
    """Return the bytes as one attempt finds them."""
    if is_web(entry.location) and entry.length == ALL:
        _check_size(entry.uri, max(1, entry.size_bytes), limit_bytes)
        with Sink(place) as sink:
            download(entry.location, settings.http, limit_bytes, sink.write)
        return _held(entry, sink, settings)
    info = _listed(entry) if turn == 1 or entry.length != ALL else None
    info = info or facts_of(entry.location, settings)
    if info is None:
        raise FetchError("missing", f"{entry.uri}: no such file")
    length = info.size_bytes if entry.length == ALL else entry.length
    _check_size(entry.uri, length, limit_bytes)
    if is_web(entry.location) or storage.is_s3(entry.location):
        return _copied(entry, info, length, settings, place)
    return _local(entry, info, length, settings, place)


def _listed(entry: SourceEntry) -> FileInfo | None:
    """Return a remote file as it was listed; None where nobody asked, or it is local."""
    if not (is_web(entry.location) or storage.is_s3(entry.location)):
        return None
    size, _, tag = entry.stamp.partition(" ")
    tag = tag.rpartition(" ")[0] if entry.length != ALL else tag
    if not (size.isdigit() and tag):
        return None
    known = "" if tag == "0" else tag  # a server may tell neither ETag nor time
    return FileInfo(entry.location, int(size), 0, known)


def _local(
    entry: SourceEntry, info: FileInfo, length: int, settings: SourceSettings, place: Path
) -> Fetched:
    """Return a local file in place, or a part of it that is copied."""
    path = Path(info.uri)
    if entry.length == ALL:
        with path.open("rb", buffering=0) as file:
            source_id = hashlib.file_digest(file, "sha256").hexdigest()
        media = Fetched(path, source_id, length, info)
        _check_same(media, None)
        return media
    if not entry.stamp.startswith(f"{info.size_bytes} {info.modified_ns} "):
        raise FetchError("changed_while_read", f"{path}: changed since it was listed")
    media = _copied(entry, info, length, settings, place)
    _check_same(Fetched(path, "", 0, info), None)
    return media


def _copied(
    entry: SourceEntry, info: FileInfo, length: int, settings: SourceSettings, place: Path
) -> Fetched:
    """Return a remote file, or a part of any, in memory or in a temporary file."""
    with Sink(place) as sink:
        for at in range(0, length, _PIECE):
            want = min(_PIECE, length - at)
            piece = read_part(info, entry.offset + at, want, settings)
            if len(piece) != want:
                raise FetchError("changed_while_read", f"{entry.uri}: ends at byte {at}")
            sink.write(piece)
    return _held(entry, sink, settings)


def _held(entry: SourceEntry, sink: Sink, settings: SourceSettings) -> Fetched:
    """Return what was written, in memory where it is small."""
    if not sink.size_bytes:
        raise FetchError("empty_file", f"{entry.uri}: 0 bytes", retryable=False)
    small = sink.size_bytes <= settings.memory_mib << 20
    data = sink.place.read_bytes() if small else sink.place
    return Fetched(data, sink.hash.hexdigest(), sink.size_bytes)


def _check_size(uri: str, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes == 0:
        raise FetchError("empty_file", f"{uri}: the file has 0 bytes", retryable=False)
    if size_bytes > limit_bytes:
        mib, most = size_bytes >> 20, limit_bytes >> 20
        raise FetchError("too_large", f"{uri}: {mib} MiB, at most {most} MiB a file", False)


def _check_same(media: Fetched, cause: Exception | None) -> None:
    """Check that a file used in place is still the one it was."""
    if media.watched is not None and local_facts(Path(media.watched.uri)) != media.watched:
        raise FetchError(
            "changed_while_read", f"{media.watched.uri}: changed while it was read"
        ) from cause
