"""One interface for files on local disks and in S3, addressed by URI.

A URI is a local path, `file:///path` or `s3://bucket/prefix`. S3 reads the usual AWS
variables; `AWS_ENDPOINT_URL` points it at another S3-speaking server. Whole-file writes are
atomic everywhere (a local file is written beside its name, synced, then renamed), and
`create_exclusive` is the one primitive on which commits rest.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from infra import local, s3, s3_faults
from infra.errors import ConfigError, DataError, ServiceError, SnapvideoError
from infra.local import FileInfo as FileInfo  # part of this module's interface
from infra.s3_faults import ChangedError as ChangedError

_SCHEMES = ("s3://", "file://")


def is_s3(uri: str) -> bool:
    """Return whether the URI lies in S3."""
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """Return the URI of something below `uri`."""
    return "/".join([uri.rstrip("/") or "/", *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """Return the URI with a local path made absolute, so that workers elsewhere agree on it."""
    _check_scheme(uri)
    return uri if is_s3(uri) else str(local_path(uri).absolute())


def local_path(uri: str) -> Path:
    """Return the path of a local URI.

    Raises:
        ConfigError: The URI is not local.
    """
    _check_scheme(uri)
    if is_s3(uri):
        raise ConfigError(f"{uri}: a local path is needed here, got an S3 address")
    if uri.startswith("file://"):  # as it stands: names may hold #, ? and %
        return Path("/" + uri.removeprefix("file://").partition("/")[2])
    return Path(uri).expanduser()


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return pyarrow's filesystem for the URI and the path inside it."""
    if is_s3(uri):
        return s3.filesystem(), uri.removeprefix("s3://")
    return pafs.LocalFileSystem(), str(local_path(uri).absolute())


def delta_options(uri: str) -> dict[str, str]:
    """Return the storage options that deltalake needs for the URI."""
    return s3.delta_options() if is_s3(uri) else {}


def explain(uri: str, fault: BaseException) -> SnapvideoError:
    """Return our error for a fault of the system, pyarrow or delta-rs at the URI."""
    if is_s3(uri):
        return s3_faults.explain(uri, fault)
    return local.explain(uri, fault)


def exists(uri: str) -> bool:
    """Return whether a file or folder lies at the URI."""
    if is_s3(uri):
        return s3.exists(uri)
    with local.reading(uri):
        return local_path(uri).exists()


def read_bytes(uri: str, etag: str = "") -> bytes:
    """Return a whole file; `etag`: only of this version of an S3 object.

    Raises:
        ChangedError: The object has another ETag now.
        DataError: There is no such file.
        ServiceError: S3 does not answer, or stops in the middle.
    """
    if is_s3(uri):
        return s3.get(uri, etag)
    with local.reading(uri):
        return local_path(uri).read_bytes()


def read_range(uri: str, offset: int, length: int, etag: str = "") -> bytes:
    """Return `length` bytes from `offset`; fewer where the file ends before.

    Raises:
        ChangedError: The object has another ETag now.
        DataError: There is no such file.
        ServiceError: S3 does not answer, or stops in the middle.
    """
    if is_s3(uri):
        return s3.get(uri, etag, (offset, length))
    return local.read_range(local_path(uri), offset, length)


def copy_to(uri: str, path: Path, limit_bytes: int, etag: str = "") -> int:
    """Copy a file to a local path, piece by piece; return its size.

    Nothing is left at `path` where it fails.

    Raises:
        ChangedError: The object has another ETag now.
        DataError: There is no such file, it has more than `limit_bytes`, or the disk is full.
        ServiceError: S3 does not answer, or stops in the middle.
    """
    with local.beside(path) as temporary:
        with temporary.open("wb") as file:
            for piece in _pieces(uri, limit_bytes, etag):
                file.write(piece)
            size = file.tell()
        temporary.replace(path)
    return size


def read_text(uri: str) -> str:
    """Return a whole UTF-8 file.

    Raises:
        DataError: There is no such file, or it is not UTF-8.
    """
    try:
        return read_bytes(uri).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise DataError(f"{uri}: not UTF-8 ({fault}); save it as UTF-8") from fault


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file, atomically, over what was there.

    Raises:
        DataError: The disk is full or the folder cannot be written.
        ServiceError: S3 refuses the write.
    """
    if is_s3(uri):
        s3.put(uri, data)
        return
    local.write(local_path(uri), data)


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file only if there is none; return whether this call created it.

    This is how a commit is decided between two writers: a hard link locally, a put with
    `If-None-Match: *` on S3.

    Raises:
        DataError: The disk is full or the folder cannot be written.
        ServiceError: S3 refuses the write.
    """
    if is_s3(uri):
        return s3.put(uri, data, exclusive=True)
    return local.write_exclusive(local_path(uri), data)


def upload(path: Path, uri: str, move: bool = False) -> None:
    """Put a local file at the URI, atomically and with bounded memory.

    Args:
        path: The file.
        uri: Where to.
        move: The file is not needed any more: on the same disk it is renamed, else removed.

    Raises:
        DataError: The disk is full or the folder cannot be written.
        ServiceError: S3 refuses the write.
    """
    if is_s3(uri):
        s3.upload(path, uri)
    else:
        local.place(path, local_path(uri), move)
    if move:
        path.unlink(missing_ok=True)


def list_files(uri: str) -> Iterator[FileInfo]:
    """Yield every file below the URI, by name as S3 sorts them; nothing where there is no folder.

    What is held at once is a page of S3's, or the names of one local folder and those above it.
    A link to a folder is followed once, but never to a folder above it. What cannot be a file to
    read (a link to nowhere, a pipe) is passed over with a warning.

    Raises:
        DataError: A local name is not UTF-8, or a local folder cannot be read.
        ServiceError: S3 does not answer.
    """
    if not is_s3(uri):
        yield from local.walk(local_path(uri).absolute())
        return
    bucket = s3.bucket_key(uri)[0]
    for found in s3.objects(uri):
        yield FileInfo(
            f"s3://{bucket}/{found.key}", found.size_bytes, found.modified_ns, found.etag
        )


def delete(uri: str) -> None:
    """Remove a file or a folder with all that is in it; what is not there is no error.

    Raises:
        DataError: It cannot be removed.
        ServiceError: S3 does not answer or refuses.
    """
    if is_s3(uri):
        s3.delete(uri)
        return
    local.remove(local_path(uri))


def upload_folder(folder: Path, uri: str) -> None:
    """Copy a local folder to the URI, file by file, each atomically."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            upload(path, join(uri, path.relative_to(folder).as_posix()))


def local_copy(uri: str, scratch: Path) -> Path:
    """Return a local folder with the content of `uri`: itself when local, else a copy in scratch.

    Raises:
        DataError: Nothing lies at the URI, or a name in it leads elsewhere.
    """
    if not is_s3(uri):
        path = local_path(uri)
        if not path.exists():
            raise DataError(f"{uri}: no such folder")
        return path
    found = False
    for info in list_files(uri):
        found = True
        target = scratch / info.uri.removeprefix(uri.rstrip("/") + "/")
        if not target.resolve().is_relative_to(scratch.resolve()):
            raise DataError(f"{info.uri}: leads out of {uri}; remove this object")
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_to(info.uri, target, limit_bytes=info.size_bytes, etag=info.etag)
    if not found:
        raise DataError(f"{uri}: nothing lies there")
    return scratch


def check_conditional_put(uri: str) -> None:
    """Prove that the store refuses a second exclusive put; else commits would be lost.

    Raises:
        ServiceError: The store accepted both puts.
    """
    probe = join(uri, f"_probe-{uuid.uuid4().hex}")
    try:
        if not create_exclusive(probe, b"1") or create_exclusive(probe, b"2"):
            raise ServiceError(
                f"{uri}: this store ignores If-None-Match, so concurrent commits would be lost; "
                "use AWS S3, MinIO, Ceph or another store that honours it"
            )
    finally:
        delete(probe)


def _check_scheme(uri: str) -> None:
    if "://" in uri and not uri.startswith(_SCHEMES):
        scheme = uri.partition("://")[0]
        raise ConfigError(
            f"{uri}: scheme '{scheme}' is not known; accepted: a path, file://, s3://"
        )


def _pieces(uri: str, limit_bytes: int, etag: str) -> Iterator[bytes]:
    """Yield a file in pieces; refuse it before and while it turns out larger than the limit."""
    size = 0
    pieces = s3.pieces(uri, etag) if is_s3(uri) else local.pieces(local_path(uri))
    for declared, piece in pieces:
        size += len(piece)
        if max(size, declared) > limit_bytes:
            raise DataError(
                f"{uri}: {max(size, declared):,} bytes, at most {limit_bytes:,} are accepted; "
                "raise the limit, or leave the file out"
            )
        yield piece
