"""Files on this machine, in S3 or on the web: what they are, and parts of them."""

import errno
import os
import stat
from pathlib import Path

from infra import s3, s3_faults, storage
from infra.errors import DataError
from infra.storage import FileInfo
from pipelines.sources.address import FetchError, is_web
from pipelines.sources.config import SourceSettings
from pipelines.sources.web import download, head

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def facts_of(uri: str, settings: SourceSettings) -> FileInfo | None:
    """Return size and stamp of a file; None where there is none.

    Raises:
        FetchError: It lies on the web or on a disk, and cannot be asked about.
        ServiceError: S3 does not answer.
    """
    if is_web(uri):
        answer = head(uri, settings.http)
        return FileInfo(uri, answer.size_bytes, 0, answer.stamp)
    if storage.is_s3(uri):
        return _object(uri)
    return local_facts(storage.local_path(uri))


def local_facts(path: Path) -> FileInfo | None:
    """Return size and time of a local file; None where there is none.

    Raises:
        FetchError: The disk does not say whether there is one.
    """
    try:
        found = path.stat()
    except ValueError:
        return None
    except OSError as fault:
        if fault.errno in _ABSENT:
            return None
        told = f"{path}: cannot be looked at ({fault.strerror}); check the disk and the rights"
        raise FetchError("unreadable_file", told) from fault
    if not stat.S_ISREG(found.st_mode):
        return None
    readable = os.access(path, os.R_OK)
    return FileInfo(str(path), found.st_size, found.st_mtime_ns if readable else 0)


def read_part(info: FileInfo, offset: int, length: int, settings: SourceSettings) -> bytes:
    """Return `length` bytes from `offset`; fewer where the file ends before.

    Raises:
        DataError: It is not there, has changed, or its server does not send parts.
        ServiceError: S3 does not answer.
    """
    if not is_web(info.uri):
        return storage.read_range(info.uri, offset, length, etag=info.etag)
    length = min(length, info.size_bytes - offset)
    if length <= 0:
        return b""
    found = bytearray()
    answer = download(info.uri, settings.http, length, found.extend, (offset, length))
    if info.etag and answer.stamp != info.etag:
        raise FetchError("changed_while_read", f"{info.uri}: changed since it was listed")
    return bytes(found)


def _object(uri: str) -> FileInfo | None:
    bucket, key = s3.bucket_key(uri)
    if not key or key.endswith("/"):
        return None
    try:
        found = s3.client().head_object(Bucket=bucket, Key=key)
    except s3.FAULTS as fault:
        if _code(fault) in ("404", "NoSuchKey"):
            return None
        raise s3_faults.explain(uri, fault) from fault
    modified_ns = int(found["LastModified"].timestamp() * 1e6) * 1000
    return FileInfo(uri, found["ContentLength"], modified_ns, found["ETag"].strip('"'))


def is_denied(fault: BaseException) -> bool:
    """Return whether S3 refuses one object to credentials that it knows."""
    return _code(fault.__cause__) in ("AccessDenied", "403")


def _code(fault: BaseException | None) -> str:
    response = getattr(fault, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def needs(info: FileInfo | None, source: str) -> FileInfo:
    """Return what is there.

    Raises:
        DataError: Nothing is.
    """
    if info is None:
        raise DataError(f"source {source}: no such file or folder; check the address")
    return info
