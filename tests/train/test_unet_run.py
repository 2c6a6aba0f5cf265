"""A U-Net is trained, stored and sampled by the code that does so for a FIT."""

import json
from pathlib import Path

import pytest
import torch

from infra.tracking import TrackingSettings, connect
from tests.train import little
from tests.train.test_unet import conditioning
from train import bundle
from train.config import OptimizerSettings, ReaderSettings, TrainSettings
from train.diffusion.guidance import Guidance, GuidedDenoiser
from train.diffusion.sampler import begin, finish, walk
from train.model.unet import UNet
from train.run import TrainJob, TrainResult, train_stage

SETTINGS = TrainSettings(
    preset="unet-micro",
    dropout=0.0,
    steps=4,
    batch_videos=4,
    batch_images=2,
    optimizer=OptimizerSettings(name="adam", lr=1e-3, beta_2=0.999, warmup_steps=1),
    reader=ReaderSettings(framerates=(12.0, 6.0)),
    report_every=1,
)


class Place:
    """A dataset, and U-Nets trained on it under ZeRO stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root, self.text = little.make(folder)
        self.tracker = connect(TrackingSettings(), str(folder))

    def train(self, zero_stage: int) -> TrainResult:
        settings = SETTINGS.model_copy(update={"zero_stage": zero_stage})
        name = f"zero{zero_stage}"
        return train_stage(
            TrainJob(
                name, 1, self.root, "r1", settings, self.text,
                out_uri=str(self.folder / name), storage_uri=str(self.folder / f"state{name}"),
            ),
            self.tracker,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(ray_local, tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("unet"))


@pytest.fixture(scope="module")
def sharded(place) -> TrainResult:
    return place.train(3)


def losses(result: TrainResult) -> list[float]:
    return [json.loads(line)["loss"] for line in Path(result.stats_uri).read_text().splitlines()]


def test_its_checkpoint_loads_as_a_u_net_and_samples(sharded):
    loaded = bundle.load(sharded.bundle_uri)
    assert isinstance(loaded.model, UNet)
    denoise = GuidedDenoiser(loaded.model, loaded.edm, conditioning(2), Guidance(3.0))
    state = begin([1, 2], loaded.model.config.clip_shape, loaded.edm)
    made = finish(walk(denoise, state, loaded.edm, 3), loaded.edm)
    assert made.shape == (2, 3, 4, 12, 16)
    assert torch.isfinite(made).all()


def test_its_loss_falls_from_the_first_step(sharded):
    found = losses(sharded)
    assert found[-1] < found[0]


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_it_learns_the_same_under_every_zero_stage(place, sharded, zero_stage):
    assert losses(place.train(zero_stage)) == pytest.approx(losses(sharded), rel=1e-4)
