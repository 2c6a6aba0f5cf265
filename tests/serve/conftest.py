"""A tiny untrained cascade and requests for it."""

import dataclasses
import socket
from pathlib import Path

import httpx
import openai
import pytest
import torch

from serve import app, weights
from serve.config import ModelSettings, ServeSettings
from serve.generate import Generator, Stage
from serve.schema import ModelFacts, VideoRequest
from train import bundle
from train.diffusion.edm import Edm
from train.model.fit import Fit
from train.model.presets import PRESETS
from train.text import TextEncoder, build_tiny_t5, encoder_id
from train.text_config import TextSettings

WORDS = ["a large red circle moves left over a plain charcoal background", "small blue square up"]
FRAMERATES = (24.0, 12.0, 6.0, 3.0)


@pytest.fixture(scope="session")
def text_settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    build_tiny_t5(folder, WORDS, width=16)
    return TextSettings(model=str(folder), max_tokens=16, device="cpu")


@pytest.fixture(scope="session")
def stages():
    torch.manual_seed(0)
    made = [
        Stage(Fit(PRESETS["micro"]), Edm(sigma_in=2.0)),
        Stage(Fit(PRESETS["micro-up"]), Edm(sigma_in=4.0)),
    ]
    with torch.no_grad():
        for stage in made:
            stage.network.carry_norm.gain.fill_(1.0)  # as after training: latents are carried
    return made


@pytest.fixture(scope="session")
def facts():
    return ModelFacts(
        name="m", digest="d" * 64, created_at=0, num_frames=4,
        height_px=24, width_px=32, framerates=FRAMERATES, has_stage2=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def generator(stages, text_settings):
    torch.set_num_threads(1)
    return Generator(*stages, TextEncoder(text_settings), framerates=FRAMERATES)


@pytest.fixture(scope="session")
def checkpoints(stages, text_settings, tmp_path_factory):
    """The stages as checkpoint folders, as training leaves them."""
    encoder = text_settings.model_dump(include={"model", "revision", "max_tokens", "dtype"})
    folders = []
    for number, stage in enumerate(stages, start=1):
        config = {
            "stage": number,
            "model": stage.network.config.to_dict(),
            "edm": stage.edm.to_dict(),
            "text_encoder": encoder | {"encoder_id": encoder_id(text_settings)},
            "framerates": list(FRAMERATES),
            "native": {},
            "provenance": {},
        }
        folders.append(str(tmp_path_factory.mktemp("bundles") / f"stage{number}"))
        weights_of = stage.network.state_dict()
        bundle.save(folders[-1], config, weights_of, weights_of)
    return folders


@pytest.fixture(scope="session")
def free_port():
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class Live:
    """A running application and what it was started with."""

    server: app.Server
    settings: ServeSettings

    @property
    def folder(self) -> Path:
        return Path(self.settings.folder)


@pytest.fixture(scope="module")
def live(ray_local, checkpoints, free_port, tmp_path_factory):
    """One serving application on Ray Serve for a module; after it Ray's CPUs are free again."""
    settings = ServeSettings(
        port=free_port,
        folder=str(tmp_path_factory.mktemp("serve")),
        models=ModelSettings(stage1=checkpoints[0], stage2=checkpoints[1]),
        lease_s=3.0,
        idle_poll_s=0.02,
        poll_after_ms=50,
        device="cpu",
    )
    server = app.run(settings, weights.find(settings.models))
    yield Live(server, settings)
    server.shutdown()


@pytest.fixture(scope="module")
def client(live):
    return openai.OpenAI(base_url=f"{live.server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def http(live):
    with httpx.Client(base_url=live.server.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def ask():
    """Return a maker of small requests."""

    def make(seed=1, prompt=WORDS[0], **values):
        given = {"num_frames": 4, "fps": 8.0, "steps": 6, "steps_2": 4, "guidance": 3.0}
        return VideoRequest(prompt=prompt, seed=seed, **(given | {"guidance_2": 1.0} | values))

    return make
