"""One interface for files on local disks and in S3, addressed by URI.

A URI is a local path, `file:///path` or `s3://bucket/prefix`. S3 reads the usual AWS
variables; `AWS_ENDPOINT_URL` points it at another S3-speaking server. Whole-file writes are
atomic everywhere (a local file is written beside its name, synced, then renamed), and
`create_exclusive` is the one primitive on which commits rest.
"""

import contextlib
import functools
import logging
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
import pyarrow as pa
import pyarrow.fs as pafs

from infra.errors import ConfigError, DataError, ServiceError

log = logging.getLogger(__name__)

_SCHEMES = ("s3://", "file://")


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing: its URI, size and what changes when its content does."""

    uri: str
    size_bytes: int
    modified_ns: int
    """0 where the file may not be read now, so that mending its rights counts as a change."""


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
    return Path(urlsplit(uri).path if uri.startswith("file://") else uri).expanduser()


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return pyarrow's filesystem for the URI and the path inside it."""
    if is_s3(uri):
        return _s3_filesystem(os.environ.get("AWS_ENDPOINT_URL", "")), uri.removeprefix("s3://")
    return pafs.LocalFileSystem(), str(local_path(uri).absolute())


def delta_options(uri: str) -> dict[str, str]:
    """Return the storage options that deltalake needs for the URI."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if not is_s3(uri):
        return {}
    options = {"aws_conditional_put": "etag"}
    if endpoint:
        options |= {"AWS_ENDPOINT_URL": endpoint}
    if endpoint.startswith("http://"):
        options |= {"AWS_ALLOW_HTTP": "true"}
    return options


def exists(uri: str) -> bool:
    """Return whether a file or folder lies at the URI."""
    files, path = filesystem(uri)
    return bool(_guard(uri, files.get_file_info, path).type != pafs.FileType.NotFound)


def read_bytes(uri: str) -> bytes:
    """Return a whole file, as it is (pyarrow would unpack what is named `.gz`).

    Raises:
        DataError: There is no such file.
        ServiceError: S3 does not answer, or stops in the middle.
    """
    files, path = filesystem(uri)
    with _guard(uri, files.open_input_stream, path, None) as stream:
        return bytes(_guard(uri, stream.read))


def read_range(uri: str, offset: int, length: int) -> bytes:
    """Return `length` bytes from `offset`; fewer where the file ends before.

    Raises:
        DataError: There is no such file.
        ServiceError: S3 does not answer, or stops in the middle.
    """
    files, path = filesystem(uri)
    with _guard(uri, files.open_input_file, path) as file:
        return bytes(_guard(uri, file.read_at, length, offset))


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
    """
    if is_s3(uri):
        bucket, key = _bucket_key(uri)
        _put(uri, Bucket=bucket, Key=key, Body=data)
        return
    target = local_path(uri)
    temporary = _write_beside(target, data)
    temporary.replace(target)


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file only if there is none; return whether this call created it.

    This is how a commit is decided between two writers: a hard link locally, a put with
    `If-None-Match: *` on S3.
    """
    if is_s3(uri):
        bucket, key = _bucket_key(uri)
        return _put(uri, Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    target = local_path(uri)
    temporary = _write_beside(target, data)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def list_files(uri: str) -> Iterator[FileInfo]:
    """Yield every file below the URI, sorted by name; nothing where there is no such folder.

    Links are followed, a folder that is met again is not. What cannot be a file to read (a link
    to nowhere, a pipe) is passed over with a warning.

    Raises:
        DataError: A local name is not UTF-8, or a local folder cannot be read.
        ServiceError: S3 does not answer.
    """
    if not is_s3(uri):
        yield from sorted(_walk(local_path(uri).absolute()), key=lambda info: info.uri)
        return
    files, path = filesystem(uri)
    selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    infos = [i for i in _guard(uri, files.get_file_info, selector) if i.type == pafs.FileType.File]
    for info in sorted(infos, key=lambda i: i.path):
        yield FileInfo(f"s3://{info.path}", info.size or 0, info.mtime_ns or 0)


def delete(uri: str) -> None:
    """Remove a file or a folder with all that is in it; what is not there is no error."""
    files, path = filesystem(uri)
    kind = _guard(uri, files.get_file_info, path).type
    if kind == pafs.FileType.File:
        _guard(uri, files.delete_file, path)
    elif kind == pafs.FileType.Directory:
        _guard(uri, files.delete_dir, path)


def upload_folder(folder: Path, uri: str) -> None:
    """Copy a local folder to the URI, file by file, each atomically."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            write_bytes(join(uri, path.relative_to(folder).as_posix()), path.read_bytes())


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
        target.write_bytes(read_bytes(info.uri))
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


def _walk(root: Path) -> Iterator[FileInfo]:
    """Yield the files below a local folder, in no order."""
    met = set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_unlistable):
        at = Path(folder).stat()
        below[:] = [] if (at.st_dev, at.st_ino) in met else sorted(below)
        for name in names if (at.st_dev, at.st_ino) not in met else ():
            info = _local_info(Path(folder, name))
            if info:
                yield info
        met.add((at.st_dev, at.st_ino))


def _unlistable(fault: OSError) -> None:
    if not isinstance(fault, FileNotFoundError):
        raise DataError(f"{fault.filename}: cannot be listed ({fault.strerror})") from fault


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


def _check_scheme(uri: str) -> None:
    if "://" in uri and not uri.startswith(_SCHEMES):
        scheme = uri.partition("://")[0]
        raise ConfigError(
            f"{uri}: scheme '{scheme}' is not known; accepted: a path, file://, s3://"
        )


def _write_beside(target: Path, data: bytes) -> Path:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as fault:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"{target}: cannot be written ({fault}); free space or mend rights"
        ) from fault
    return temporary


def _bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _put(uri: str, **request: object) -> bool:
    try:
        _s3_client(os.environ.get("AWS_ENDPOINT_URL", "")).put_object(**request)
    except botocore.exceptions.ClientError as fault:
        code = fault.response.get("Error", {}).get("Code", "")
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
            return False
        raise ServiceError(
            f"{uri}: S3 refused the write ({fault}); check the bucket and what the AWS "
            "credentials may do"
        ) from fault
    except botocore.exceptions.BotoCoreError as fault:
        raise ServiceError(
            f"{uri}: S3 does not answer ({fault}); check AWS_ENDPOINT_URL"
        ) from fault
    return True


@functools.cache
def _s3_client(endpoint: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - boto3 makes the class at run time
    return boto3.client("s3", endpoint_url=endpoint or None)


@functools.cache
def _s3_filesystem(endpoint: str) -> pafs.FileSystem:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    scheme: Literal["http", "https"] = "http" if endpoint.startswith("http://") else "https"
    host = endpoint.rpartition("://")[2] or None
    return pafs.S3FileSystem(region=region, endpoint_override=host, scheme=scheme)


def _guard(uri: str, call, *args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202 - as the call
    """Call pyarrow and turn its faults into ours."""
    try:
        return call(*args)
    except FileNotFoundError as fault:
        raise DataError(f"{uri}: no such file") from fault
    except (PermissionError, IsADirectoryError, NotADirectoryError) as fault:
        raise DataError(f"{uri}: cannot be read ({fault})") from fault
    except (OSError, pa.ArrowException) as fault:
        if is_s3(uri):
            raise ServiceError(f"{uri}: storage does not answer ({fault})") from fault
        raise DataError(f"{uri}: cannot be read ({fault})") from fault
