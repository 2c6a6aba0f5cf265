"""Two processes train a small FIT on four clips; sampling by text gives those clips back."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train import discs
from train import checkpoint
from train.diffusion.guidance import Guidance, GuidedDenoiser
from train.diffusion.sampler import begin, finish, walk
from train.model.fit import Fit
from train.model.presets import PRESETS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("memorise")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.train.memorise_rank", str(out)]
    base = os.environ | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = []
    for rank in range(2):
        env = base | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (out / f"log-{rank}").open("wb") as sink:
            ranks.append(subprocess.Popen(command, env=env, cwd=ROOT, stdout=sink, stderr=sink))
    ends_by = time.monotonic() + 400
    try:
        for rank, process in enumerate(ranks):
            code = process.wait(max(1, ends_by - time.monotonic()))
            assert code == 0, (out / f"log-{rank}").read_text()[-4000:]
    finally:
        for process in ranks:
            process.kill()
    return out


def test_the_loss_falls_below_a_tenth(trained):
    losses = json.loads((trained / "losses.json").read_text())
    assert sum(losses[-50:]) / 50 < 0.1 * sum(losses[:5]) / 5


def test_every_sample_is_the_clip_its_text_names(trained):
    model = Fit(PRESETS["micro"]).eval()
    model.load_state_dict(checkpoint.weights(trained / "ema", "ema"))
    wanted = [scene for scene in range(4) for _ in range(4)]
    edm = replace(discs.EDM, sigma_min=0.02)  # below it a short training only adds noise
    denoise = GuidedDenoiser(model, edm, discs.prompts(wanted), Guidance(1.0))
    state = begin(range(16), model.config.clip_shape, edm)
    made = finish(walk(denoise, state, edm, 18), edm).clamp(-1, 1).float()
    errors = (made[:, None] - discs.clips()[None]).square().flatten(2).mean(2)
    assert errors.argmin(dim=1).tolist() == wanted
    assert errors[range(16), wanted].mean().item() < 0.02
    assert torch.isfinite(made).all()
