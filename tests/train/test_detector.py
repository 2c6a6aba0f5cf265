"""The judge: right on real clips, and wrong where a judge must be wrong."""

import numpy as np
import pytest

from infra import video
from train.metrics import shapes
from train.metrics.attributes import Attributes, combinations, stills
from train.metrics.detector import accuracy, detect, reduced, wilson

CLIPS = list(combinations(held_out=False))[::13]


def real(attributes, seed):
    """A clip as the pipeline sees it: drawn, encoded to H.264 and decoded."""
    return video.decode(video.encode_video(shapes.clip(attributes, seed), fps=8)).frames


def shrunk(frames, num_frames, width=32, height=24):
    return reduced(frames, num_frames, width, height)


def rates(clips, change):
    found = [detect(change(frames)).attributes for frames in clips]
    return {name: r.value for name, r in accuracy(zip(CLIPS, found, strict=True)).items()}


@pytest.fixture(scope="module")
def clips():
    return [real(attributes, seed) for seed, attributes in enumerate(CLIPS)]


@pytest.mark.parametrize("num_frames", [4, 8, 16])
def test_real_clips_are_read_at_the_size_of_samples(clips, num_frames):
    assert min(rates(clips, lambda frames: shrunk(frames, num_frames)).values()) >= 0.98


def test_real_clips_are_read_at_the_size_of_sources(clips):
    assert min(rates(clips, lambda frames: frames).values()) >= 0.98


def test_stage_one_sizes_can_be_judged_too(clips):
    found = rates(clips, lambda frames: shrunk(frames, 4, 16, 12))
    assert min(found["colour"], found["direction"]) >= 0.98


def test_a_frozen_clip_has_no_direction(clips):
    assert rates(clips, lambda frames: shrunk(frames[:1], 8))["direction"] == 0


def test_a_reversed_clip_moves_the_other_way(clips):
    found = rates(clips, lambda frames: shrunk(frames, 8)[::-1])
    assert found["direction"] == 0
    assert found["colour"] == 1


def test_shuffled_frames_are_no_motion(clips):
    order = np.random.default_rng(0).permutation(8)
    assert rates(clips, lambda frames: shrunk(frames, 8)[order])["direction"] < 0.25


def test_swapped_colours_are_other_colours(clips):
    found = rates(clips, lambda frames: shrunk(frames, 8)[..., [1, 2, 0]])
    assert found["colour"] == 0
    assert found["direction"] == 1


def test_nothing_is_found_in_noise_or_in_an_empty_picture():
    noise = np.random.default_rng(0).integers(0, 256, (8, 24, 32, 3)).astype(np.uint8)
    assert not detect(noise).found
    assert not detect(np.full((8, 24, 32, 3), 110, np.uint8)).found


def test_an_object_in_less_than_half_of_the_frames_is_not_found(clips):
    frames = shrunk(clips[0], 8)
    frames[:5] = 110
    assert not detect(frames).found


def test_stills_are_read_from_one_frame():
    truth = list(stills())
    found = [detect(shapes.clip(one, seed, 1)).attributes for seed, one in enumerate(truth)]
    assert found == truth


def test_speed_is_judged_by_the_time_that_the_frames_span(clips):
    truth = Attributes("red", "circle", "small", "left", "quickly", "plain charcoal")
    first_half = shapes.clip(truth, 0)[:9]
    assert detect(first_half, share=8 / 15).attributes.speed == "quickly"
    assert detect(first_half).attributes.speed == "slowly"


def test_a_clip_in_which_nothing_is_found_is_wrong_in_everything():
    found = accuracy([(CLIPS[0], Attributes())])
    assert {rate.value for rate in found.values()} == {0.0}


def test_what_the_truth_does_not_say_is_not_counted():
    found = accuracy([(Attributes(colour="red"), CLIPS[0])] * 3)
    assert set(found) == {"colour", "all"}
    assert found["colour"].num == 3


def test_wilson_agrees_with_the_textbook():
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611252), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_reducing_averages_over_areas():
    row = np.array([0, 30, 60], np.uint8)
    picture = np.repeat(row[None, None, :, None], 3, axis=3)
    assert reduced(picture, 1, 2, 1)[0, 0, :, 0].tolist() == [10, 50]
