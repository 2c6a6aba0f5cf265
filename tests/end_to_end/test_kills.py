"""kill -9 of drivers, of Ray's workers and of S3 servers at random points, twenty in all.

After each rerun every clip is there once, nothing is lost or doubled, no row lacks its bytes, and
what was done in vain is at most a shard a worker for each kill. The drivers join a Ray cluster of
other processes by its address alone.
"""

import contextlib
import json
import logging
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from infra import storage
from infra.store.dataset import Dataset
from infra.video import encode_image, encode_video
from pipelines.datasets.verify import verify
from tests.infra.videos import moving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

log = logging.getLogger(__name__)

NUM_FILES = 36
NUM_WORKERS = 2
SEED = 20
BIN = Path(sys.executable).parent
UNITS, DECODES = "ray::ReadRange->MapBatches", "ray::_answers"  # titles of workers that are busy
PROGRAM = """
import dataclasses, json, sys
from infra import cluster, logs
logs.setup()
address, source, root = sys.argv[1:]
cluster.start(cluster.ClusterSettings(address=address))
from infra.errors import SnapvideoError
from pipelines.ingest import ingest
from pipelines.ingest_config import IngestSettings
from pipelines.prepare import prepared
from pipelines.sources.config import SourceSettings
settings = IngestSettings(files_per_task=3, max_refused_share=0.9)
print("begin", flush=True)
try:
    with prepared(root, source, SourceSettings(), settings) as found:
        counts = ingest(root, found, settings, SourceSettings(), "run")
except SnapvideoError as fault:
    sys.exit(f"clean: {type(fault).__name__}: {fault}")
print(json.dumps({name: dataclasses.asdict(one) for name, one in counts.items()}))
"""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of its own processes."""

    address: str
    process: subprocess.Popen
    environment: dict[str, str]

    def workers(self) -> list[psutil.Process]:
        """Return its processes that work on something."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in found if _title(one).startswith((UNITS, DECODES))]

    def drive(self, source, root, **environment) -> subprocess.Popen:
        """Start an ingest that joins the cluster; return it when it begins."""
        driver = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.address, str(source), str(root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | environment,
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "begin\n", driver.communicate()
        return driver


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    port = free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
    }
    words = [
        *("start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"),
        *(f"--num-cpus={NUM_WORKERS}", "--object-store-memory=150000000"),
        "--include-dashboard=false",
    ]
    process = subprocess.Popen(
        [BIN / "ray", *words], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline_s = time.monotonic() + 90
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        assert time.monotonic() < deadline_s, "the cluster does not start"
        time.sleep(0.2)
    time.sleep(3)  # the node registers after the port is open
    yield Cluster(f"127.0.0.1:{port}", process, environment)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    for one in [*children, process]:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            one.kill()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Small videos of their own content, some captioned, some doubled, some broken."""
    found: dict[str, bytes] = {}
    for number in range(NUM_FILES):
        name = f"{'ab'[number % 2]}/{number:03d}"
        found[f"{name}.mp4"] = encode_video(moving(8, colour=(number * 5, 90, 200)), 8)
        if number % 3 == 0:
            found[f"{name}.txt"] = f"square {number}".encode()
    found["a/double.mp4"] = found["a/000.mp4"]
    found["b/empty.mp4"] = b""
    found["b/page.mp4"] = b"<html></html>"
    found["b/still.png"] = encode_image(moving(1)[0])
    return found


@pytest.fixture(scope="module")
def source(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name, data in files.items():
        storage.write_bytes(str(folder / name), data)
    return folder


def finish(driver: subprocess.Popen) -> dict:
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    (counts,) = (line for line in out.splitlines() if line.startswith("{"))  # Ray speaks here too
    return json.loads(counts)


@pytest.fixture(scope="module")
def straight(cluster, source, tmp_path_factory) -> dict:
    """What an ingest gives that nobody disturbs, and how long it takes once workers are there."""
    counts = {}
    for name in ("first", "second"):
        root = tmp_path_factory.mktemp(name) / "data"
        began_s = time.monotonic()
        counts = finish(cluster.drive(source, root))
        took_s = time.monotonic() - began_s
    log.info("an undisturbed ingest takes %.1f s", took_s)
    assert counts["a"]["num_duplicates"] == 1
    return {"counts": counts, "state": state(str(root)), "took_s": took_s}


def state(root: str) -> list[list[str]]:
    """What the tables hold, without what differs from run to run."""
    columns = {
        "clips": ["clip_id", "media_sha256", "split_bucket"],
        "captions": ["clip_id", "text", "media_sha256"],
        "scores": ["clip_id", "scorer", "version", "value"],
        "quarantine": ["source_id", "stage", "reason"],
        "sources": ["source_id", "partition", "status", "reason", "attempts"],
    }
    dataset = Dataset.open(root)
    return [
        sorted(json.dumps(row) for row in dataset.read(table, columns=names).to_pylist())
        for table, names in columns.items()
    ]


def check(root, straight, num_kills, found) -> None:
    """Everything is there once, and little was done in vain."""
    assert found == straight["counts"]
    assert state(str(root)) == straight["state"]
    tree = verify(str(root), 2, quick=False).tree
    assert tree["num_faults"] == {}
    log.info("kills=%d shards in vain=%d", num_kills, tree["num_orphans"])
    assert tree["num_orphans"] <= num_kills * NUM_WORKERS


def half_way(root) -> None:
    """What a kill leaves has no doubles, and no row without bytes."""
    if storage.exists(storage.join(str(root), "dataset.json")):
        assert verify(str(root), 2, quick=False).tree["num_faults"] == {}


def test_drivers_that_are_killed(cluster, source, straight, tmp_path):
    chance, root = random.Random(SEED), tmp_path / "data"
    for _ in range(8):
        driver = cluster.drive(source, root)
        time.sleep(chance.uniform(0.2, 0.5 * straight["took_s"]))
        driver.kill()
        driver.communicate()
        half_way(root)
    check(root, straight, 8, finish(cluster.drive(source, root)))


def test_workers_that_are_killed(cluster, source, straight, tmp_path):
    """The run goes on: units are taken up by other processes.

    A source that takes down three decoding processes is refused, so only two of those are killed.
    """
    chance, root, num_killed, num_decoding = random.Random(SEED), tmp_path / "data", 0, 0
    driver = cluster.drive(source, root)
    while driver.poll() is None and num_killed < 7:
        time.sleep(chance.uniform(0.3, 1.5))
        kinds = (UNITS, DECODES) if num_decoding < 2 else UNITS
        busy = [one for one in cluster.workers() if _title(one).startswith(kinds)]
        if busy:
            one = chance.choice(busy)
            decodes = _title(one).startswith(DECODES)
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
                num_killed, num_decoding = num_killed + 1, num_decoding + decodes
    check(root, straight, num_killed, finish(driver))
    assert num_killed - num_decoding >= 3


@dataclass
class Rclone:
    """A server of sources that can be killed and comes back at its port."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    def start(self, key: str = "test,test") -> None:
        words = ["serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", key]
        self.process = subprocess.Popen(
            [BIN / "rclone", *words, "--config", os.devnull, self.folder],
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("rclone does not answer")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def test_a_server_of_sources_that_is_killed(cluster, files, straight, tmp_path):
    for name, data in files.items():
        storage.write_bytes(str(tmp_path / "s3/bucket" / name), data)
    server, chance, root = Rclone(tmp_path / "s3"), random.Random(SEED), tmp_path / "data"
    endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
    for number in range(3):
        server.start()
        driver = cluster.drive("s3://bucket", root, **endpoint)
        time.sleep(chance.uniform(0.2, 0.5 * straight["took_s"]))
        server.kill()
        if number == 2:  # it comes back, but knows the key no more
            server.start("other,keys")
        _, err = driver.communicate(timeout=300)
        server.kill()
        assert driver.returncode == 0 or "clean: " in err, err
        half_way(root)
    server.start()
    try:
        found = finish(cluster.drive("s3://bucket", root, **endpoint))
    finally:
        server.kill()
    check(root, straight, 3, found)


class Way:
    """A TCP way to a server that breaks off with all connections, and is mended."""

    def __init__(self, port: int) -> None:
        self.port, self._target = free_port(), port
        self._open = threading.Event()
        self._sockets: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", self.port))
        self._open.set()
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self._open.clear()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets = []

    def mend(self) -> None:
        self._open.set()

    def _serve(self) -> None:
        while True:
            client, _ = self._door.accept()
            if not self._open.is_set():
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


def test_a_server_of_the_dataset_that_breaks_off(cluster, source, straight, s3):
    way = Way(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{way.port}"}
    chance, root = random.Random(SEED), storage.join(s3, "data")
    for _ in range(2):
        driver = cluster.drive(source, root, **endpoint)
        time.sleep(chance.uniform(0.2, 0.5 * straight["took_s"]))
        way.cut()
        _, err = driver.communicate(timeout=300)
        assert driver.returncode == 0 or "clean: " in err, err
        way.mend()
        half_way(root)
    check(root, straight, 2, finish(cluster.drive(source, root, **endpoint)))
