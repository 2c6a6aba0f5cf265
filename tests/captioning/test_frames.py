"""Which frames are shown."""

import numpy as np

from captioning.config import FrameSettings
from captioning.frames import even, fit_count, load
from infra import video


def test_frames_are_even_in_time_not_in_number():
    """A clip whose second half has twice the rate."""
    pts_s = np.array([0.0, 1.0, 2.0, 2.5, 3.0, 3.5, 4.0])
    assert even(pts_s, 3).tolist() == [0, 2, 6]


def test_a_short_clip_shows_all_it_has():
    assert even(np.array([0.0, 0.1]), 8).tolist() == [0, 1]


def test_a_still_is_one_frame_and_is_shrunk():
    png = video.encode_image(np.zeros((50, 100, 3), np.uint8), kind="png")
    assert load(png, FrameSettings(num_frames=8, max_side_px=20)).shape == (1, 10, 20, 3)


def test_a_fixed_count_repeats_a_still():
    still = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert np.array_equal(fit_count(still, 4), np.repeat(still, 4, axis=0))
