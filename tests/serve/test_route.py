"""The order in which a video's windows are denoised."""

from serve import route
from train.diffusion import hierarchy

LADDER = (24.0, 12.0, 6.0, 3.0)


def legs(num_frames, num_stages=2, fps=12.0):
    return route.route(hierarchy.plan(num_frames, fps, 4, LADDER), num_stages)


def test_a_clip_is_one_walk_per_stage():
    assert [(leg.stage, leg.window.level, leg.output) for leg in legs(4)] == [
        (1, 0, False),
        (2, 0, True),
    ]


def test_levels_go_from_coarse_to_fine_and_the_second_stage_enlarges_the_finest():
    order = [(leg.stage, leg.window.level) for leg in legs(13)]
    assert order == [(1, 0)] + [(1, 1)] * 2 + [(1, 2)] * 4 + [(2, 2)] * 4


def test_only_the_last_stages_finest_level_is_the_video():
    assert [leg.output for leg in legs(7)] == [False] * 3 + [True] * 2
    assert [leg.output for leg in legs(7, num_stages=1)] == [False, True, True]


def test_every_window_has_noise_of_its_own():
    walks = legs(13)
    assert len({(leg.stage, leg.seed_name) for leg in walks}) == len(walks)


def test_the_first_clip_keeps_the_noise_of_a_video_that_is_one_clip():
    assert legs(13)[0].seed_name == legs(4)[0].seed_name == ""


def test_steps_count_every_walk_of_both_stages():
    assert route.count_steps(legs(7), (6, 4)) == 3 * 6 + 2 * 4
