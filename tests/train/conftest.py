"""The ZeRO runs that the tests of LAMB and of checkpoints look at, made once a session."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.zero_cases import EXACT, TAMPERED

ROOT = Path(__file__).parents[2]


def launch(world_size: int, cases: list[dict], out: Path) -> None:
    """Run every case in `world_size` processes; the first failing rank's log is shown."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (out / f"cases{world_size}.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.train.ranks", out / f"cases{world_size}.json", out]
    base = os.environ | {"WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    ranks, logs = [], [out / f"log{world_size}-{rank}" for rank in range(world_size)]
    for rank, log in enumerate(logs):
        env = base | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("wb") as sink:
            ranks.append(subprocess.Popen(command, env=env, cwd=ROOT, stdout=sink, stderr=sink))
    try:
        for process, log in zip(ranks, logs, strict=True):
            assert process.wait(240) == 0, log.read_text()[-4000:]
    finally:
        for process in ranks:
            process.kill()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Every case at two ranks, then the ones that resume at one rank what two have saved."""
    out = tmp_path_factory.mktemp("zero")
    cases = [{"name": name} | case for name, case in (EXACT | TAMPERED).items()]
    cases += [{"name": "naive", "stage": 2, "naive": True}]
    cases += [{"name": f"half{s}", "stage": s, "steps": 6} for s in (2, 3)]
    cases += [
        {"name": "same_size", "stage": 2, "load": str(out / "half2-state")},
        {"name": "other_stage", "stage": 3, "load": str(out / "half2-state")},
    ]
    launch(2, cases, out)
    resized = [
        {"name": "alone2", "stage": 2},
        {"name": "shrunk", "stage": 2, "load": str(out / "half2-state")},
        {"name": "shrunk_to_stage_0", "stage": 0, "load": str(out / "half3-state")},
    ]
    launch(1, resized, out)
    return out
