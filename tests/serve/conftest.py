"""A tiny untrained cascade and requests for it."""

import pytest
import torch

from serve.generate import Generator, Stage
from serve.schema import VideoRequest
from train.diffusion.edm import Edm
from train.model.fit import Fit
from train.model.presets import PRESETS
from train.text import TextEncoder, build_tiny_t5
from train.text_config import TextSettings

WORDS = ["a large red circle moves left over a plain grey background", "small blue square up"]


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
def generator(stages, text_settings):
    torch.set_num_threads(1)
    return Generator(stages[0], stages[1], TextEncoder(text_settings))


@pytest.fixture(scope="session")
def ask():
    """Return a maker of small requests."""

    def make(seed=1, prompt=WORDS[0], **values):
        given = {"num_frames": 4, "fps": 8.0, "steps": 6, "steps_2": 4, "guidance": 3.0}
        return VideoRequest(prompt=prompt, seed=seed, **(given | {"guidance_2": 1.0} | values))

    return make
