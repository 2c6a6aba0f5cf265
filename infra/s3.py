"""S3 through boto3: reads that notice a change, conditional puts, listings, uploads.

`infra.storage` calls this for `s3://` addresses. One client a process and set of credentials;
its checksums are the ones that every S3-speaking server has ("when required"). Every fault that
S3, pyarrow or delta-rs tells becomes one of our errors that says what to do (`explain`).
"""

import functools
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import boto3
import boto3.exceptions
import botocore.exceptions
import pyarrow.fs as pafs
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from infra.errors import MissingError, ServiceError
from infra.s3_faults import ChangedError, explain

FAULTS = (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError)
"""What a call of the client raises."""

_ATTEMPTS = 4
_CONNECT_S, _READ_S = 5, 60
_PIECE = 1 << 20
_PART = 16 << 20
_PAGE_KEYS = 1000
_IDENTITY = (
    "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_DEFAULT_REGION",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """One object of a listing."""

    key: str
    size_bytes: int
    modified_ns: int
    etag: str


def client() -> Any:  # noqa: ANN401 - boto3 makes the class at run time
    """Return this process's client for the endpoint and credentials in the environment."""
    return _client(os.getpid(), os.environ.get("AWS_MAX_ATTEMPTS", str(_ATTEMPTS)), *_identity())


def filesystem() -> pafs.FileSystem:
    """Return pyarrow's filesystem for the endpoint and credentials in the environment."""
    return _filesystem(*_identity())


def delta_options() -> dict[str, str]:
    """Return the storage options that deltalake needs."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    options = {
        "aws_conditional_put": "etag",
        "max_retries": "5",
        "retry_timeout": "30s",
        "connect_timeout": f"{_CONNECT_S}s",
        "timeout": f"{_READ_S}s",
    }
    if endpoint:
        options |= {"AWS_ENDPOINT_URL": endpoint}
    if endpoint.startswith("http://"):
        options |= {"AWS_ALLOW_HTTP": "true"}
    return options


def bucket_key(uri: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def exists(uri: str) -> bool:
    """Return whether an object or anything below the address is there."""
    bucket, key = bucket_key(uri.rstrip("/"))
    for prefix in (key, f"{key}/"):
        names = [found.key for found in _first(uri, bucket, prefix if key else "")]
        if not names or names[0] == key or names[0].startswith(f"{key}/" if key else ""):
            return bool(names) or not key
    return False


def get(uri: str, etag: str = "", span: tuple[int, int] | None = None) -> bytes:
    """Return an object, or `span` (offset, length) of it; fewer bytes where it ends before.

    Raises:
        ChangedError: `etag` is given and the object has another.
        DataError: There is no such object.
        ServiceError: S3 does not answer or refuses.
    """
    if span and span[1] <= 0:
        _check_etag(uri, etag, str(_call(uri, "head_object").get("ETag", "")))
        return b""
    request = {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"} if span else {}
    for attempt in range(1, _ATTEMPTS + 1):
        answer = _open(uri, etag, request)
        if answer is None:
            return b""
        try:
            return bytes(answer["Body"].read())
        except botocore.exceptions.BotoCoreError as fault:
            if attempt == _ATTEMPTS:
                raise explain(uri, fault) from fault
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def pieces(uri: str, etag: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield (the object's size, a piece of it) until its end.

    Raises:
        ChangedError: `etag` is given and the object has another.
        DataError: There is no such object.
        ServiceError: S3 does not answer, refuses, or stops in the middle.
    """
    answer = _open(uri, etag, {})
    assert answer is not None, "only a range can lie outside"
    size = int(answer.get("ContentLength", 0))
    yield size, b""
    try:
        for piece in answer["Body"].iter_chunks(_PIECE):
            yield size, piece
    except botocore.exceptions.BotoCoreError as fault:
        raise explain(uri, fault) from fault
    finally:
        answer["Body"].close()


def put(uri: str, data: bytes, exclusive: bool = False) -> bool:
    """Write an object; `exclusive`: only where there is none. Return whether it was written.

    Raises:
        ServiceError: S3 does not answer or refuses.
    """
    condition = {"IfNoneMatch": "*"} if exclusive else {}
    try:
        _call(uri, "put_object", Body=data, **condition)
    except botocore.exceptions.ClientError as fault:
        if _code(fault) in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
            return False
        raise explain(uri, fault) from fault
    return True


def upload(path: Path, uri: str) -> None:
    """Copy a local file to S3 in parts, with bounded memory.

    Raises:
        ServiceError: S3 does not answer or refuses; nothing lies there then.
    """
    bucket, key = bucket_key(uri)
    parts = TransferConfig(
        multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=4, use_threads=True
    )
    try:
        client().upload_file(str(path), bucket, key, Config=parts)
    except boto3.exceptions.S3UploadFailedError as fault:
        raise explain(uri, fault.__context__ or fault) from fault
    except FAULTS as fault:
        raise explain(uri, fault) from fault


def objects(uri: str) -> Iterator[Found]:
    """Yield the objects below an address, by name, a page at a time.

    Raises:
        ServiceError: S3 does not answer or refuses.
    """
    return (found for found in _listed(uri) if not found.key.endswith("/"))  # marks of folders


def delete(uri: str) -> None:
    """Remove an object and everything below the address; what is not there is no error.

    Raises:
        ServiceError: S3 does not answer or refuses, be it for one object.
    """
    bucket, key = bucket_key(uri.rstrip("/"))
    names = [found.key for found in _first(uri, bucket, key)] if key else []
    if key in names:
        _call(uri, "delete_object")
    below = _listed(uri)
    while keys := [{"Key": found.key} for found in itertools.islice(below, _PAGE_KEYS)]:
        try:
            answer = client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        except FAULTS as fault:
            raise explain(uri, fault) from fault
        for refused in answer.get("Errors", []):
            told = f"{refused.get('Code')}: {refused.get('Message')}"
            raise explain(f"s3://{bucket}/{refused.get('Key')}", OSError(told))


def _open(uri: str, etag: str, request: dict[str, Any]) -> Any | None:  # noqa: ANN401 - boto3's answer
    """Return the answer to a GET of the version `etag`; None where the range lies outside."""
    condition = {"IfMatch": f'"{etag}"'} if etag else {}
    try:
        answer = _call(uri, "get_object", **request, **condition)
    except botocore.exceptions.ClientError as fault:
        if _code(fault) in ("PreconditionFailed", "412"):
            raise _changed(uri, etag, "another one") from fault
        if _code(fault) in ("InvalidRange", "416"):
            return None
        raise explain(uri, fault) from fault
    _check_etag(uri, etag, str(answer.get("ETag", "")))  # some servers ignore If-Match
    return answer


def _check_etag(uri: str, etag: str, found: str) -> None:
    if etag and found.strip('"') != etag:
        raise _changed(uri, etag, found)


def _changed(uri: str, etag: str, found: str) -> ChangedError:
    return ChangedError(
        f"{uri}: changed since it was listed (ETag {etag}, now {found}); list it again"
    )


def _call(uri: str, operation: str, **request: object) -> dict[str, Any]:
    """Call the client for one object; only refusals that depend on a condition pass through."""
    bucket, key = bucket_key(uri)
    try:
        answer: dict[str, Any] = getattr(client(), operation)(Bucket=bucket, Key=key, **request)
    except botocore.exceptions.ClientError as fault:
        code = _code(fault)
        if code in ("NoSuchKey", "NoSuchVersion", "404"):
            raise MissingError(f"{uri}: no such file") from fault
        if request and code in _CONDITIONAL:
            raise
        raise explain(uri, fault) from fault
    except botocore.exceptions.BotoCoreError as fault:
        raise explain(uri, fault) from fault
    return answer


_CONDITIONAL = (
    "PreconditionFailed", "ConditionalRequestConflict", "412", "409", "InvalidRange", "416",
)  # fmt: skip


def _listed(uri: str) -> Iterator[Found]:
    """Yield everything below an address, by name."""
    bucket, key = bucket_key(uri.rstrip("/"))
    try:
        pages = client().get_paginator("list_objects_v2")
        for page in pages.paginate(
            Bucket=bucket,
            Prefix=f"{key}/" if key else "",
            PaginationConfig={"PageSize": _PAGE_KEYS},
        ):
            yield from (_found(entry) for entry in page.get("Contents", []))
    except FAULTS as fault:
        raise explain(uri, fault) from fault


def _first(uri: str, bucket: str, prefix: str) -> list[Found]:
    """Return the first object whose name begins so, if there is one."""
    try:
        page = client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except FAULTS as fault:
        raise explain(uri, fault) from fault
    return [_found(entry) for entry in page.get("Contents", [])]


def _found(entry: Any) -> Found:  # noqa: ANN401 - boto3's answer
    changed_ns = int(entry["LastModified"].timestamp() * 1e6) * 1000
    return Found(entry["Key"], entry["Size"], changed_ns, str(entry.get("ETag", "")).strip('"'))


def _code(fault: botocore.exceptions.ClientError) -> str:
    return str(fault.response.get("Error", {}).get("Code", ""))


def _identity() -> tuple[str, ...]:
    return tuple(os.environ.get(name, "") for name in _IDENTITY)


@functools.lru_cache(maxsize=8)
def _client(process: int, attempts: str, *identity: str) -> Any:  # noqa: ANN401 - as `client`; a fork must not share sockets
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL") or None,
            region_name=_region(),
            config=Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={
                    "mode": "standard",
                    "total_max_attempts": int(attempts),
                },
                connect_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                max_pool_connections=32,
            ),
        )
    except (botocore.exceptions.BotoCoreError, ValueError) as fault:
        raise ServiceError(
            f"S3: the AWS settings of the environment cannot be used ({fault}); check "
            "AWS_ENDPOINT_URL, AWS_PROFILE, AWS_REGION and AWS_MAX_ATTEMPTS"
        ) from fault


@functools.lru_cache(maxsize=8)
def _filesystem(*identity: str) -> pafs.FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    scheme: Literal["http", "https"] = "http" if endpoint.startswith("http://") else "https"
    return pafs.S3FileSystem(
        region=_region(),
        endpoint_override=endpoint.rpartition("://")[2] or None,
        scheme=scheme,
        connect_timeout=_CONNECT_S,
        request_timeout=_READ_S,
    )


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
