"""Files on local disks for `infra.storage`: listed as S3 sorts, written whole or not at all."""

import contextlib
import errno
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import DataError, MissingError, SnapvideoError

log = logging.getLogger(__name__)

_PIECE = 1 << 20
_FULL = ("No space left", "quota exceeded", "File too large", "os error 28")
_CLOSED = ("ermission denied", "Read-only", "not permitted")


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing: its URI, size and what changes when its content does."""

    uri: str
    size_bytes: int
    modified_ns: int
    """0 where the file may not be read now, so that mending its rights counts as a change."""
    etag: str = ""
    """S3 only: names the object's content; reads can ask for exactly it."""


def explain(uri: str, fault: BaseException) -> SnapvideoError:
    """Return our error for a fault of the system, pyarrow or delta-rs at a local path."""
    told = str(fault)
    if any(words in told for words in _FULL):
        return DataError(f"{uri}: cannot be written, the disk is full ({told}); free space there")
    if any(words in told for words in _CLOSED):
        return DataError(
            f"{uri}: cannot be written or read, it is read-only or rights are missing ({told}); "
            "mend the rights, or choose another place"
        )
    return DataError(f"{uri}: cannot be written or read ({told}); check the path and its rights")


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn the faults of reading a local file into ours."""
    try:
        yield
    except FileNotFoundError as fault:
        raise MissingError(f"{uri}: no such file") from fault
    except (OSError, ValueError) as fault:
        raise DataError(
            f"{uri}: cannot be read ({fault}); check the path and its rights"
        ) from fault


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Return `length` bytes from `offset`; fewer where the file ends before."""
    found = []
    with reading(str(path)), path.open("rb", buffering=0) as file:
        while length > 0 and (piece := os.pread(file.fileno(), length, offset)):
            found.append(piece)
            offset, length = offset + len(piece), length - len(piece)
    return found[0] if len(found) == 1 else b"".join(found)


def pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (the file's size, a piece of it) until its end."""
    with reading(str(path)):
        file = path.open("rb")
    with file:
        size = os.fstat(file.fileno()).st_size
        piece = b""
        while True:
            with reading(str(path)):
                piece = file.read(_PIECE)
            yield size, piece
            if not piece:
                return


def write(target: Path, data: bytes) -> None:
    """Write a whole file, atomically, over what was there."""
    with beside(target) as temporary:
        _write_synced(temporary, data)
        temporary.replace(target)


def write_exclusive(target: Path, data: bytes) -> bool:
    """Create a file only if there is none; return whether this call created it."""
    with beside(target) as temporary:
        _write_synced(temporary, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
    return True


def place(path: Path, target: Path, move: bool) -> None:
    """Put a file at `target`, atomically; `move`: by its rename, where it is the same disk."""
    with beside(target) as temporary:
        _sync(path)
        try:
            if move:
                path.replace(target)
                return
        except OSError as fault:
            if fault.errno != errno.EXDEV:
                raise
        shutil.copyfile(path, temporary)
        _sync(temporary)
        temporary.replace(target)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; what is not there is no error."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as fault:
        raise explain(str(path), fault) from fault


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Give a name beside the target to write to; afterwards nothing is left there.

    Raises:
        DataError: The disk is full or the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name[:50]}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as fault:
        raise explain(str(target), fault) from fault
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def walk(root: Path) -> Iterator[FileInfo]:
    """Yield the files below a folder, by name; a folder's name sorts as if it ended in "/"."""
    followed: set[tuple[int, int]] = set()
    open_folders = [_Folder.listed(root, ())]
    while open_folders:
        folder = open_folders[-1]
        name = next(folder.names, None)
        if name is None:
            open_folders.pop()
            continue
        path = folder.path / os.fsdecode(name.rstrip(b"/"))
        if not name.endswith(b"/"):
            info = _local_info(path)
            if info:
                yield info
        elif not path.is_symlink() or _leads_on(path, folder.above, followed):
            open_folders.append(_Folder.listed(path, folder.above))


@dataclass(frozen=True)
class _Folder:
    path: Path
    names: Iterator[bytes]
    above: tuple[tuple[int, int], ...]
    """Device and inode of the folder and of those above it."""

    @classmethod
    def listed(cls, path: Path, above: tuple[tuple[int, int], ...]) -> "_Folder":
        try:
            at = path.stat()
            with os.scandir(path) as entries:
                names = sorted(_sort_name(entry) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, iter(()), above)
        except OSError as fault:
            raise DataError(f"{path}: cannot be listed ({fault.strerror})") from fault
        return cls(path, iter(names), (*above, (at.st_dev, at.st_ino)))


def _sort_name(entry: "os.DirEntry[str]") -> bytes:
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look: told as a file
        is_folder = False
    return os.fsencode(entry.name) + (b"/" if is_folder else b"")


def _leads_on(
    link: Path, above: tuple[tuple[int, int], ...], followed: set[tuple[int, int]]
) -> bool:
    """Return whether a link to a folder is to be followed, and remember that it was."""
    found = link.stat()
    at = (found.st_dev, found.st_ino)
    if at in above or at in followed:
        return False
    followed.add(at)
    return True


def _local_info(path: Path) -> FileInfo | None:
    try:
        str(path).encode()
        found = path.stat()
    except UnicodeEncodeError as fault:
        raise DataError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename the file") from fault
    except OSError as fault:
        log.warning("passed over, cannot be read uri=%s fault=%s", path, fault.strerror)
        return None
    if not stat.S_ISREG(found.st_mode):
        log.warning("passed over, not a file uri=%s", path)
        return None
    readable = os.access(path, os.R_OK)
    return FileInfo(str(path), found.st_size, found.st_mtime_ns if readable else 0)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
