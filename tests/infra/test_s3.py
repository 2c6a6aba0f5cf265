"""S3 that refuses, forgets, changes and is not there: each told apart."""

import contextlib
import datetime as dt
import os
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.auth
import deltalake
import pyarrow.dataset as pads
import pytest

from infra import s3 as s3_module
from infra import storage
from infra.errors import DataError, ServiceError
from infra.store.commits import faults
from infra.store.dataset import Dataset


@pytest.fixture(params=["s3", "rclone_s3"])
def bucket(request):
    return request.getfixturevalue(request.param)


def _through_arrow(uri):
    files, path = storage.filesystem(uri)
    with faults(uri):
        pads.dataset(path, filesystem=files, format="parquet")


def _through_delta(uri):
    with faults(uri):
        deltalake.DeltaTable(uri, storage_options=storage.delta_options(uri))


WAYS = {
    "read": lambda uri: storage.read_bytes(uri),
    "range": lambda uri: storage.read_range(uri, 0, 1),
    "copy": lambda uri: storage.copy_to(uri, Path(os.environ["COPY_TO"]), 10),
    "write": lambda uri: storage.write_bytes(uri, b"1"),
    "create": lambda uri: storage.create_exclusive(uri, b"1"),
    "upload": lambda uri: storage.upload(Path(__file__), uri),
    "list": lambda uri: list(storage.list_files(uri)),
    "exists": lambda uri: storage.exists(uri),
    "delete": lambda uri: storage.delete(uri),
    "open": lambda uri: Dataset.open(uri),
    "arrow": _through_arrow,
    "delta": _through_delta,
}


@pytest.fixture(autouse=True)
def _place_for_copies(monkeypatch, tmp_path):
    monkeypatch.setenv("COPY_TO", str(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_ACCESS_KEY_ID", "somebody"), ("AWS_SECRET_ACCESS_KEY", "guessed")],
)
def test_wrong_credentials_are_told_on_every_way(rclone_s3, monkeypatch, name, value):
    storage.write_bytes(f"{rclone_s3}/x", b"1")
    monkeypatch.setenv(name, value)
    for way in WAYS:  # Arrow asks by HEAD, to which S3 answers "forbidden" and no reason
        told = "may not do that" if way == "arrow" else r"not know these credentials .*check AWS_AC"
        with pytest.raises(ServiceError, match=told):
            WAYS[way](f"{rclone_s3}/x")


def test_a_missing_bucket_is_told_on_every_way(bucket):
    for way in set(WAYS) - {"arrow"}:
        with pytest.raises(ServiceError, match=r"no such bucket .*; check the address"):
            WAYS[way]("s3://no-such-bucket/x")
    with pytest.raises(DataError, match="gone"):  # to Arrow it is a file that is not there
        _through_arrow("s3://no-such-bucket/x")


def test_a_clock_that_is_wrong_is_told(rclone_s3, monkeypatch):
    real = botocore.auth.get_current_datetime
    slow = dt.timedelta(hours=2)
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda *args, **named: real(*args, **named) - slow
    )
    with pytest.raises(ServiceError, match=r"the clock of this machine .*set it \(NTP\)"):
        storage.write_bytes(f"{rclone_s3}/x", b"1")


def _answering(status, code):
    """A server that refuses every request with one of S3's codes."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>".encode()

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 - the library's names

        def log_message(self, *words):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Refusing)


@contextlib.contextmanager
def _refusing(monkeypatch, status, code):
    server = _answering(status, code)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (400, "ExpiredToken", r"credentials have expired .*renew them.* what is committed is kept"),
        (403, "RequestTimeTooSkewed", "the clock of this machine"),
        (403, "AccessDenied", r"may not do that.* read-only .*ask for the right"),
        (400, "AuthorizationHeaderMalformed", "another region .*set AWS_REGION"),
        (403, "QuotaExceeded", "the store is full"),
    ],
)
def test_a_refusal_is_told_on_every_way(monkeypatch, status, code, told):
    with _refusing(monkeypatch, status, code):
        for name, way in WAYS.items():
            if name == "arrow":  # asks by HEAD, and HEAD has no code
                continue
            with pytest.raises(ServiceError, match=told):
                way("s3://bucket/x")


def test_an_endpoint_that_nobody_serves_is_told_soon_on_every_way(monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for way in ("read", "delta", "arrow"):
        start = time.monotonic()
        with pytest.raises(ServiceError, match=r"S3 does not answer .*check AWS_ENDPOINT_URL"):
            WAYS[way]("s3://bucket/x")
        assert time.monotonic() - start < 20
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for way in set(WAYS) - {"delta", "arrow"}:
        with pytest.raises(ServiceError, match=r"S3 does not answer .*check AWS_ENDPOINT_URL"):
            WAYS[way]("s3://bucket/x")


def test_settings_that_no_client_understands_are_told(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ServiceError, match=r"nobody.*check AWS_ENDPOINT_URL, AWS_PROFILE"):
        storage.read_bytes("s3://bucket/x")


def test_an_object_that_changed_is_not_read(bucket, tmp_path):
    uri = f"{bucket}/a b/ü#.bin"
    storage.write_bytes(uri, b"before")
    (info,) = storage.list_files(bucket)
    assert info.etag
    assert storage.read_bytes(info.uri, info.etag) == b"before"
    assert storage.read_range(info.uri, 1, 2, info.etag) == b"ef"
    storage.write_bytes(uri, b"after!")
    for read in (
        lambda: storage.read_bytes(info.uri, info.etag),
        lambda: storage.read_range(info.uri, 1, 2, info.etag),
        lambda: storage.read_range(info.uri, 1, 0, info.etag),
        lambda: storage.copy_to(info.uri, tmp_path / "copy", 99, info.etag),
    ):
        with pytest.raises(storage.ChangedError, match="changed since it was listed"):
            read()
    assert list(tmp_path.iterdir()) == []
    (now,) = storage.list_files(bucket)
    assert storage.read_bytes(now.uri, now.etag) == b"after!"


def test_a_listing_of_many_pages_has_each_object_once(bucket, monkeypatch):
    monkeypatch.setattr(s3_module, "_PAGE_KEYS", 3)
    names = [f"{bucket}/p/{index:02}" for index in range(11)]
    for name in names:
        storage.write_bytes(name, b"")
    assert [info.uri for info in storage.list_files(f"{bucket}/p")] == names
    storage.delete(f"{bucket}/p")
    assert not storage.exists(f"{bucket}/p")


def test_names_that_begin_alike_are_told_apart(bucket):
    for name in ("ab", "a-b/x", "a/x"):
        storage.write_bytes(f"{bucket}/{name}", b"1")
    assert storage.exists(f"{bucket}/a")
    assert [info.uri for info in storage.list_files(f"{bucket}/a")] == [f"{bucket}/a/x"]
    storage.delete(f"{bucket}/a")
    assert not storage.exists(f"{bucket}/a")
    assert storage.exists(f"{bucket}/ab")
    assert storage.exists(f"{bucket}/a-b")


def test_a_fork_gets_a_client_of_its_own(s3):
    storage.write_bytes(f"{s3}/x", b"1")
    program = """
        import os, sys
        from infra import s3, storage
        before = id(s3.client())
        storage.read_bytes(sys.argv[1])
        if os.fork():
            raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
        os._exit(id(s3.client()) == before or storage.read_bytes(sys.argv[1]) != b"1")
    """
    words = [sys.executable, "-c", textwrap.dedent(program), f"{s3}/x"]
    assert subprocess.run(words, check=False).returncode == 0


def test_a_server_that_dies_in_the_middle_is_told_and_used_again_when_it_is_back(
    rclone_s3, start_rclone, monkeypatch, tmp_path
):
    server, endpoint = start_rclone()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    uri, copy = f"{rclone_s3}/large", tmp_path / "copy" / "x"
    storage.write_bytes(uri, bytes(64 << 20))
    killer = threading.Thread(target=_kill_when_begun, args=(server, copy.parent))
    killer.start()
    with pytest.raises(ServiceError, match="S3 does not answer"):
        storage.copy_to(uri, copy, limit_bytes=64 << 20)
    killer.join()
    assert list(copy.parent.iterdir()) == []
    start_rclone(int(endpoint.rpartition(":")[2]))
    assert storage.copy_to(uri, copy, limit_bytes=64 << 20) == 64 << 20


def _kill_when_begun(server, folder):
    while not (folder.is_dir() and any(path.stat().st_size for path in folder.iterdir())):
        time.sleep(0.001)
    server.kill()
