"""The whole application on Ray Serve: replicas that die, bad settings at the start."""

import os
import signal
import socket
import time

import pytest
import torch

from infra.errors import ConfigError
from serve import app, weights
from serve.config import ServeSettings
from serve.jobs import Jobs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_port_in_use_is_refused_by_its_setting():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"serve\.port: 127\.0\.0\.1:\d+ cannot be listened"):
            app.check_port(*other.getsockname())


def test_the_default_address_is_loopback():
    assert ServeSettings().host == "127.0.0.1"


def test_a_gpu_asked_for_and_absent_is_refused_by_its_setting(checkpoints, tmp_path, free_port):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    settings = ServeSettings(device="cuda", folder=str(tmp_path), port=free_port)
    served = weights.find(
        settings.models.model_copy(update={"stage1": checkpoints[0], "stage2": ""})
    )
    with pytest.raises(ConfigError, match=r"serve\.device: cuda"):
        app.run(settings, served)


@pytest.mark.parametrize(
    "asked",
    [
        {"num_inference_steps": 300},
        {"num_frames": 10, "num_inference_steps": 30},  # killed in the fourth of five windows
    ],
    ids=["a clip", "several clips"],
)
def test_a_job_whose_replica_is_killed_ends_in_the_identical_video(client, live, asked):
    asked = {"seed": 11} | asked
    reference = client.videos.create(prompt="a small blue square", extra_body=asked)
    assert client.videos.poll(reference.id).status == "completed"

    job = client.videos.create(prompt="a small blue square", extra_body=asked)
    jobs = Jobs(live.server.database_url)
    deadline = time.monotonic() + 120
    while (row := jobs.get(job.id)).step < 100:
        assert time.monotonic() < deadline, row
        time.sleep(0.01)
    os.kill(jobs.living_workers(60)[row.worker], signal.SIGKILL)

    assert client.videos.poll(job.id).status == "completed"
    row = jobs.get(job.id)
    assert (row.attempt, row.fence) == (2, 2)
    videos = [client.videos.download_content(each).read() for each in (reference.id, job.id)]
    assert videos[0] == videos[1]
    assert not list((live.folder / "states").rglob("*.safetensors"))
