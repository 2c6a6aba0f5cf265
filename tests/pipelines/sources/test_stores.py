"""Sources in another S3-speaking store, and lists of which some addresses are dead."""

import io
import tarfile

import botocore.exceptions
import pytest

from infra import storage
from infra.errors import ServiceError
from pipelines.sources.address import FetchError
from pipelines.sources.config import SourceSettings
from pipelines.sources.fetch import fetched
from pipelines.sources.listing import list_sources
from pipelines.sources.place import is_denied
from pipelines.sources.sidecar import said_of

SETTINGS = SourceSettings(retry_wait_s=0)


def contents(source, settings=SETTINGS):
    found = {}
    for entry in list_sources(source, settings):
        with fetched(entry, settings) as media:
            found[entry.uri.removeprefix(source)] = media.data
    return found


def test_a_prefix_in_rclone_is_listed_and_read(rclone_s3):
    for name in ("a/x.mp4", "a/ü y#1.png", "b.mp4"):
        storage.write_bytes(f"{rclone_s3}/{name}", name.encode())
    storage.write_bytes(f"{rclone_s3}/a/x.txt", b"a cat")
    assert contents(rclone_s3) == {
        "/a/x.mp4": b"a/x.mp4",
        "/a/ü y#1.png": "a/ü y#1.png".encode(),
        "/b.mp4": b"b.mp4",
    }
    captions = [said_of(e).captions for e in list_sources(rclone_s3, SETTINGS)]
    assert sorted(c.text for found in captions for c in found) == ["a cat"]


def test_a_tar_in_rclone_is_read_in_parts(rclone_s3):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("a.mp4", "b.mp4"):
            header = tarfile.TarInfo(name)
            header.size = 100_000
            tar.addfile(header, io.BytesIO(name[:1].encode() * 100_000))
    storage.write_bytes(f"{rclone_s3}/t.tar", out.getvalue())
    assert contents(f"{rclone_s3}/t.tar") == {
        "!/a.mp4": b"a" * 100_000,
        "!/b.mp4": b"b" * 100_000,
    }


def test_an_object_that_changes_in_rclone_is_noticed_in_a_tar(rclone_s3):
    storage.write_bytes(f"{rclone_s3}/a.mp4", b"old")
    (entry,) = list_sources(rclone_s3, SETTINGS)
    storage.write_bytes(f"{rclone_s3}/a.mp4", b"newer")
    with fetched(entry, SETTINGS) as media:
        assert media.data == b"newer"


def test_credentials_that_end_during_a_run_stop_it(rclone_s3, monkeypatch):
    storage.write_bytes(f"{rclone_s3}/a.mp4", b"1")
    (entry,) = list_sources(rclone_s3, SETTINGS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(ServiceError, match="credentials"), fetched(entry, SETTINGS):
        pass


def test_one_object_that_may_not_be_read_is_no_fault_of_the_store():
    answer = {"Error": {"Code": "AccessDenied"}}
    fault = ServiceError("no")
    fault.__cause__ = botocore.exceptions.ClientError(answer, "GetObject")
    assert is_denied(fault)
    assert not is_denied(ServiceError("no"))


def test_one_dead_address_in_a_hundred_is_counted_and_may_be_tried_again(web, permitted, tmp_path):
    lines = []
    for n in range(200):
        lines.append(web.url(f"/{n}.mp4"))
        if n % 100 != 7:
            web.answers[f"/{n}.mp4"] = f"content {n}".encode()
    (tmp_path / "list.txt").write_text("\n".join(lines))
    settings = SourceSettings(http=permitted, retry_wait_s=0)
    good, faults = 0, []
    for entry in list_sources(str(tmp_path / "list.txt"), settings):
        try:
            with fetched(entry, settings) as media:
                good += media.data == f"content {entry.uri.split('/')[-1][:-4]}".encode()
        except FetchError as fault:
            faults.append((fault.reason, fault.retryable))
    assert (good, faults) == (198, [("http_404", True)] * 2)
