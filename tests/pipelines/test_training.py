"""What the training stages make of their settings."""

import pytest

from infra.errors import ConfigError
from pipelines.config import RunConfig
from pipelines.stages.training import check_cascade, fitted
from train.config import TrainSettings


@pytest.mark.parametrize(
    ("kinds", "expected"), [({"video"}, (8, 0)), ({"video", "image"}, (8, 4)), ({"image"}, (8, 4))]
)
def test_a_folder_of_videos_trains_without_images(kinds, expected):
    settings = fitted(TrainSettings(batch_videos=8, batch_images=4), kinds, "stage1")
    assert (settings.batch_videos, settings.batch_images) == expected


def test_stills_alone_stay_stills():
    settings = TrainSettings(batch_videos=0, batch_images=4)
    assert fitted(settings, {"video"}, "stage1") == settings


def cascade(first, second):
    return RunConfig(stage1=TrainSettings(preset=first), stage2=TrainSettings(preset=second))


@pytest.mark.parametrize("pair", [("micro", "micro-up"), ("fit-3.9b", "fit-3.9b-up")])
def test_a_preset_and_its_upsampler_are_a_cascade(pair):
    check_cascade(cascade(*pair))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("unet-micro", "micro-up"), "stage2.preset: stage 1 is 'unet-micro', and U-Nets"),
        (("micro", "micro"), "stage2.preset: 'micro' is no upsampler"),
        (("micro-up", "micro-up"), "stage1.preset: 'micro-up' is an upsampler"),
        (("micro", "tiny-up"), "stage2.preset: 'tiny-up' has frames 8, the stage below has 4"),
    ],
)
def test_presets_that_are_no_cascade_are_refused_before_training(pair, message):
    with pytest.raises(ConfigError, match=message):
        check_cascade(cascade(*pair))
