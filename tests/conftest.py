"""Fixtures that start the real parts once: Ray, an S3-speaking server, an SQLite MLflow."""

import os
from collections.abc import Iterator

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a hub fails at once

import boto3
import pytest
from moto.server import ThreadedMotoServer

from infra import cluster

cluster.prepare()  # before any test module imports Ray


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
    for name, value in {
        "AWS_ENDPOINT_URL": _s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{abs(hash(request.node.nodeid))}"
    boto3.client("s3", endpoint_url=_s3_server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
