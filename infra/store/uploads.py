"""Uploads to S3 that were begun in parts and never ended: no listing shows them, the bill does."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from infra import s3, storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """An upload that was begun."""

    uri: str
    upload_id: str
    begun_ns: int


def unfinished(uri: str) -> Iterator[Upload]:
    """Yield the uploads below a URI that were begun and not ended; none on a local disk.

    A store that cannot list them is passed over with a warning.
    """
    if not storage.is_s3(uri):
        return
    bucket, prefix = s3.bucket_key(uri)
    pages = s3.client().get_paginator("list_multipart_uploads")
    try:
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Uploads", ()):
                begun_ns = int(one["Initiated"].timestamp() * 1e9)
                yield Upload(f"s3://{bucket}/{one['Key']}", one["UploadId"], begun_ns)
    except s3.FAULTS as fault:
        log.warning("unfinished uploads cannot be listed uri=%s: %s", uri, fault)


def abort(uri: str, upload_id: str) -> None:
    """Give up an upload and free its parts; one that is gone is no error."""
    bucket, key = s3.bucket_key(uri)
    try:
        s3.client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except s3.FAULTS as fault:
        log.warning("unfinished upload is left uri=%s: %s", uri, fault)
