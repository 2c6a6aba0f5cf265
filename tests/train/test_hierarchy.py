"""Plans of long videos: what is made, in which order, and from what."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.diffusion.hierarchy import plan

LADDER = (24.0, 12.0, 6.0, 3.0)
PLANS = st.builds(
    plan,
    num_frames=st.integers(1, 600),
    fps=st.sampled_from([*LADDER, 8.0, 23.976, 3.5]),
    clip_frames=st.integers(2, 20),
    ladder=st.sampled_from([LADDER, (3, 24), (0.5, 24.0)]),
)
law = settings(deadline=None)


def test_sixty_one_frames_are_made_as_counted_by_hand():
    """16 at 6 per second, 31 at 12, 61 at 24."""
    levels = plan(61, 24, 16, LADDER).levels
    assert [level.fps for level in levels] == [6, 12, 24]
    assert [level.num_frames for level in levels] == [16, 31, 61]
    assert [len(level.windows) for level in levels] == [1, 2, 4]
    second = levels[1].windows[1]
    assert second.positions == tuple(range(15, 31))
    assert second.known[:4] == (None, 8, None, 9)
    assert second.known[-4:] == (None, 14, None, 15)
    assert second.carried


def test_a_video_that_fits_one_clip_is_one_window_without_known_frames():
    for num_frames in (1, 2, 16):
        [level] = plan(num_frames, 24, 16, LADDER).levels
        [window] = level.windows
        assert level.num_frames == num_frames
        assert window.positions == tuple(range(16))
        assert window.known == (None,) * 16
        assert not window.carried


def test_without_a_lower_framerate_clips_only_follow_each_other():
    [level] = plan(40, 24, 16, [24]).levels
    assert [window.positions[0] for window in level.windows] == [0, 15, 30]
    assert [window.carried for window in level.windows] == [False, True, True]
    assert all(known is None for window in level.windows for known in window.known)


@law
@given(PLANS)
def test_every_frame_is_made_once_and_before_it_is_used(made):
    below = set()
    for level in made.levels:
        here = set()
        for window in level.windows:
            for place, (position, known) in enumerate(
                zip(window.positions, window.known, strict=True)
            ):
                assert known is None or known in below
                assert (position in here) == (place == 0 and window.carried)
                here.add(position)
        assert here >= set(range(level.num_frames))
        below = here


@law
@given(PLANS)
def test_known_frames_are_the_even_positions_of_the_level_below(made):
    for window in (window for level in made.levels for window in level.windows):
        for position, known in zip(window.positions, window.known, strict=True):
            expected = window.level > 0 and position % 2 == 0
            assert (known is not None) == expected
            assert known is None or 2 * known == position


@law
@given(PLANS)
def test_windows_share_one_frame_with_the_next(made):
    for level in made.levels:
        assert all(len(window.positions) == made.clip_frames for window in level.windows)
        for one, other in itertools.pairwise(level.windows):
            assert one.positions[-1] == other.positions[0]


@law
@given(PLANS)
def test_no_window_is_made_for_nothing(made):
    """The last window of a level holds a frame that the level above, or the video, needs."""
    needed = made.num_frames - 1
    for level in reversed(made.levels):
        last = level.windows[-1]
        assert last.positions[0] < max(needed, 1)
        needed = math.ceil(last.positions[-1] / 2)


@law
@given(PLANS)
def test_framerates_double_up_to_the_wanted_one(made):
    rates = [level.fps for level in made.levels]
    assert rates[-1] == made.fps
    assert all(2 * low == high for low, high in itertools.pairwise(rates))


@law
@given(st.integers(1, 600), st.sampled_from(LADDER), st.integers(2, 20))
def test_there_are_as_many_levels_as_the_ladder_and_the_length_allow(num_frames, fps, clip_frames):
    depth = len(plan(num_frames, fps, clip_frames, LADDER).levels)
    allowed = [
        k
        for k in range(10)
        if fps / 2**k >= 3 and (k == 0 or (clip_frames - 1) * 2**k <= num_frames - 1)
    ]
    assert depth == max(allowed) + 1


def test_a_framerate_that_differs_by_rounding_is_on_the_ladder():
    assert len(plan(31, 24000 / 1001, 16, [24000 / 1001, 24000 / 2002 + 1e-9]).levels) == 2


@pytest.mark.parametrize("fps", [2.9, 25, 0, -3, math.nan, math.inf])
def test_a_framerate_off_the_ladder_is_refused(fps):
    with pytest.raises(ValueError, match=rf"between 3 and 24 per second.*got {fps:g}"):
        plan(16, fps, 16, LADDER)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 24, 16, LADDER), "at least 1 frame, got 0"),
        ((16, 24, 1, LADDER), "at least 2, got 1"),
        ((16, 24, 16, []), r"framerates above 0, got \[\]"),
        ((16, 24, 16, [24, 0]), r"framerates above 0, got \[24, 0\]"),
        ((16, 24, 16, [24, math.nan]), r"framerates above 0, got \[24, nan\]"),
    ],
)
def test_numbers_that_no_video_has_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        plan(*values)
