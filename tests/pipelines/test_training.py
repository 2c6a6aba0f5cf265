"""What the training stages make of their settings."""

import pytest

from pipelines.stages.training import fitted
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
