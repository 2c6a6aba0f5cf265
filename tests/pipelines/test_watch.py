"""Where a video is on its way, and when it will be done."""

import pytest

from pipelines.watch import Course, Progress
from serve.schema import ModelFacts, VideoRequest

FACTS = ModelFacts(
    name="m", digest="d", created_at=0, num_frames=4,
    height_px=24, width_px=32, framerates=(8.0, 4.0), has_stage2=True,
)  # fmt: skip


def course(num_frames, facts=FACTS):
    request = VideoRequest(
        prompt="x", seed=0, num_frames=num_frames, fps=8.0,
        steps=6, steps_2=4, guidance=1.0, guidance_2=1.0,
    )  # fmt: skip
    return Course.of(request, facts)


def test_one_clip_is_one_window_a_stage():
    assert course(4) == Course(windows=(1, 1), steps=(6, 4))


def test_a_long_video_has_the_windows_of_its_plan():
    assert course(7).windows == (1 + 2, 2)  # one clip at 4/s, two at 8/s, two enlarged


def test_a_first_stage_alone_is_half_the_way():
    assert course(4, FACTS.model_copy(update={"has_stage2": False})).steps == (6,)


@pytest.mark.parametrize(
    ("stage", "step", "said"),
    [
        (1, 6, "stage 1, window 1 of 3, step 6 of 6"),
        (1, 7, "stage 1, window 2 of 3, step 1 of 6"),
        (2, 8, "stage 2, window 2 of 2, step 4 of 4"),
    ],
)
def test_a_step_is_named_by_its_window(stage, step, said):
    assert course(7).where(stage, step) == said


def test_moments_are_evenly_apart_and_end_with_the_stage():
    assert list(course(4).moments(3)) == [(1, 2), (1, 4), (1, 6), (2, 2), (2, 3), (2, 4)]


def test_more_moments_than_steps_are_all_steps():
    assert len(course(4).moments(99)) == 6 + 4


def test_a_number_of_moments_beyond_all_reason_costs_no_more_than_all_steps():
    assert course(4).moments(10**12) == course(4).moments(6)


def test_no_moments_are_none():
    assert course(4).moments(0) == {}


def test_time_left_counts_what_was_measured():
    progress = Progress(videos=2, work=(1, 10))
    progress.note(stage=1, videos=1, seconds=2.0)
    progress.note(stage=2, videos=1, seconds=3.0)
    first_of_two = progress.left_s(course(4), videos=1, stage=2, step=1)
    assert first_of_two == 3 * 3.0 + (6 * 2.0 + 4 * 3.0)


def test_a_stage_that_has_not_begun_is_guessed_by_its_pixels():
    progress = Progress(videos=1, work=(1, 10))
    progress.note(stage=1, videos=1, seconds=2.0)
    assert progress.left_s(course(4), videos=1, stage=1, step=6) == 4 * 20.0
