"""Fixtures that start the real parts once: Ray, an S3-speaking server, an SQLite MLflow."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a hub fails at once
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="snapvideo-cache-")  # not the user's

import boto3
import pytest
from moto.server import ThreadedMotoServer

from infra import cluster

cluster.prepare()  # before any test module imports Ray

RCLONE_KEYS = ("rclone-key", "rclone-secret")
StartRclone = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture(scope="session", autouse=True)
def _cache_folder() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray cluster of this machine, shared by the whole session."""
    cluster.start(cluster.ClusterSettings(num_cpus=4, dashboard=False, object_store_mib=256))
    yield
    cluster.stop()


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty bucket `s3://...` on a server of this machine that speaks S3."""
    _use_s3(monkeypatch, _s3_server, "test", "test")
    return _bucket(_s3_server, request)


@pytest.fixture(scope="session")
def start_rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRclone]:
    """Start a server that checks signatures; give (process, endpoint). The port may be chosen."""
    folder, started = tmp_path_factory.mktemp("rclone"), []

    def start(port: int = 0) -> tuple[subprocess.Popen[str], str]:
        words = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(RCLONE_KEYS)]
        server = subprocess.Popen(
            [Path(sys.executable).with_name("rclone"), *words, "--config", os.devnull, folder],
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(server)
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                return server, found.group()
        raise AssertionError("rclone ended without serving")

    yield start
    for server in started:
        server.kill()
        server.communicate()


@pytest.fixture(scope="session")
def _rclone_server(start_rclone: StartRclone) -> str:
    return start_rclone()[1]


@pytest.fixture
def rclone_s3(
    _rclone_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """An empty bucket `s3://...` on a server that checks signatures and ignores If-None-Match."""
    _use_s3(monkeypatch, _rclone_server, *RCLONE_KEYS)
    return _bucket(_rclone_server, request)


def _use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str, key: str, secret: str) -> None:
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def _bucket(endpoint: str, request: pytest.FixtureRequest) -> str:
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    boto3.session.Session().client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"
