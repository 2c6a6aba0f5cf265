"""A cluster started here does not take over the process that started it."""

import signal
import subprocess
import sys

import pytest

from infra import cluster
from infra.errors import ConfigError

PROGRAM = """
import signal, sys, time
from infra import cluster
signal.signal(signal.SIGTERM, signal.default_int_handler)
cluster.start(cluster.ClusterSettings(num_cpus=1, dashboard=False, object_store_mib=100))
try:
    print("up", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    cluster.stop()
    sys.exit(130)
"""


def test_a_polite_kill_is_answered_by_the_program_and_not_by_ray():
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout.readline() == "up\n"
    program.send_signal(signal.SIGTERM)
    _, said = program.communicate(timeout=60)
    assert program.returncode == 130, said
    assert "SIGTERM received" not in said


def test_a_block_with_ray_leaves_its_callers_cluster_alone(ray_local):
    import ray

    with cluster.running(cluster.ClusterSettings()):
        assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 4


def test_missing_gpus_are_named_also_where_ray_runs_already(ray_local):
    with pytest.raises(ConfigError, match=r"cluster\.num_gpus: 64 asked for"):
        cluster.start(cluster.ClusterSettings(num_gpus=64))
