"""Members of tars by byte range: headers are read, media is not.

Works on local files and in S3 with one small read per larger member. What is no plain file, or
has a name that leads elsewhere, is refused by name.
"""

import io
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from infra.errors import DataError, ServiceError
from infra.storage import ChangedError, FileInfo
from pipelines.sources.address import FetchError
from pipelines.sources.config import SourceSettings
from pipelines.sources.place import is_denied, read_part

log = logging.getLogger(__name__)

_BLOCK = 512
_MAX_NAME = 4096
_AHEAD = 64 << 10
_MAX_READ = 1 << 20  # of headers and their long names; a header that asks for more is hostile
_FAULTS = (tarfile.TarError, RecursionError, ValueError, EOFError, UnicodeError)


@dataclass(frozen=True)
class Member:
    """A file inside a tar, or why it or the rest of the tar cannot be used."""

    name: str
    offset: int = 0
    size_bytes: int = 0
    data: bytes | None = None
    """The content of a small text member."""
    refusal: str = ""
    """`reason: message`."""


def members(info: FileInfo, texts: tuple[str, ...], settings: SourceSettings) -> Iterator[Member]:
    """Yield the files of a tar in order; a tar that ends in the middle ends with a refusal.

    Args:
        info: The tar.
        texts: Endings of members whose content is read at once.
        settings: Texts larger than `max_caption_kib` come without content.

    Raises:
        ServiceError: S3 does not answer; a tar that it denies is a refusal.
    """
    window = _Window(info, settings)
    try:
        with tarfile.TarFile(fileobj=window, mode="r") as tar:
            while (header := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                if tar.offset <= header.offset:
                    raise tarfile.ReadError("a header leads backwards")
                if not header.isdir():
                    member = _member(header, info.size_bytes)
                    yield _with_text(member, window, texts, settings.max_caption_kib << 10)
            window.seek(tar.offset)
            if window.read(_BLOCK).strip(b"\0") or tar.offset >= info.size_bytes:
                raise tarfile.ReadError(f"it breaks off at byte {tar.offset}")
    except _FAULTS as fault:
        message = f"not a whole tar ({type(fault).__name__}: {fault})"
        yield Member("", refusal=f"unreadable_tar: {message}")
    except (ChangedError, FetchError) as fault:
        reason = fault.reason if isinstance(fault, FetchError) else "changed_while_read"
        yield Member("", refusal=f"{reason}: {fault}")
    except DataError as fault:
        yield Member("", refusal=f"unreadable_tar: {fault}")
    except ServiceError as fault:
        if not is_denied(fault):
            raise
        yield Member("", refusal=f"no_access: {fault}")


def _member(header: tarfile.TarInfo, tar_bytes: int) -> Member:
    name = header.name
    if len(name) > _MAX_NAME or any("\ud800" <= letter <= "\udfff" for letter in name):
        shown = name[:200].encode(errors="backslashreplace").decode()
        return Member(shown, refusal=f"bad_member: {shown!r} is too long or not UTF-8")
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\0" in name:
        return Member(name, refusal=f"bad_member: {name!r} leads out of the tar")
    if not header.isreg() or header.issparse():
        kind = "a sparse file" if header.issparse() else f"of type {header.type!r}"
        return Member(name, refusal=f"bad_member: {name!r} is {kind}; only plain files are read")
    if header.size < 0 or header.offset_data + header.size > tar_bytes:
        return Member(name, refusal=f"bad_member: {name!r} ends behind the tar ({header.size} B)")
    return Member(name, header.offset_data, header.size)


def _with_text(
    member: Member, window: "_Window", texts: tuple[str, ...], max_text_bytes: int
) -> Member:
    is_text = member.name.rpartition(".")[2].lower() in texts
    if member.refusal or not is_text or member.size_bytes > max_text_bytes:
        return member
    data = window.content(member.offset, member.size_bytes)
    return Member(member.name, member.offset, member.size_bytes, data)


class _Window(io.RawIOBase):
    """A file that is read through one small buffer."""

    def __init__(self, info: FileInfo, settings: SourceSettings) -> None:
        super().__init__()
        self._settings = settings
        self._info, self._at, self._start, self._held = info, 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        if offset < 0:
            raise tarfile.ReadError("a header leads before the start")
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError(f"a header asks for {size} bytes, at most {_MAX_READ}")
        first = self._at - self._start
        if not 0 <= first <= first + size <= len(self._held):
            self._start, first = self._at, 0
            self._held = read_part(self._info, self._at, max(size, _AHEAD), self._settings)
        found = self._held[first : first + size]
        self._at += len(found)
        return found

    def content(self, offset: int, length: int) -> bytes:
        """Return what a member holds; the place that is read from stays."""
        if length > _MAX_READ:  # no header: as long as the caller allows
            return read_part(self._info, offset, length, self._settings)
        at, self._at = self._at, offset
        found = self.read(length)
        self._at = at
        return found
