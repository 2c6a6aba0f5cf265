"""Videos longer than a clip: known frames, seams, resuming, batch mates."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save

from serve.generate import Generator, Stage
from serve.state import FORMAT, Saved
from train.diffusion.edm import Edm
from train.model.networks import build
from train.model.presets import PRESETS

LONG = {"num_frames": 13, "fps": 12.0, "steps": 3, "steps_2": 2}  # levels of 4, 7 and 13 frames
STEPS = (1 + 2 + 4) * 3 + 4 * 2


def walked(generator, *requests):
    denoising = generator.begin(requests)
    while not denoising.done:
        denoising.advance()
        yield denoising


def sample(generator, *requests):
    for denoising in walked(generator, *requests):
        last = denoising
    return last.videos()


@pytest.fixture(scope="module")
def one_level(stages, generator):
    """The same weights, known to have seen one framerate: clips follow each other, nothing else."""
    return Generator(*stages, generator._encoder, framerates=(8.0,))


@pytest.fixture(scope="module")
def whole(generator, ask):
    """What each step of one long video left behind: its canvas, its preview, and the frames."""
    canvases, previews = [], []
    for denoising in walked(generator, ask(1, **LONG)):
        canvases.append(denoising.save(0).canvas)
        previews.append(denoising.preview(0))
    return canvases, previews, denoising.videos()[0]


def test_a_long_video_has_the_frames_asked_for(whole):
    assert whole[2].shape == (13, 24, 32, 3)


def test_a_level_keeps_the_frames_of_the_level_below_it(whole):
    levels = {c.below.shape[1]: c.below for c in whole[0] if c.below is not None}
    assert sorted(levels) == [4, 7, 13]
    assert torch.equal(levels[7][:, ::2], levels[4])
    assert torch.equal(levels[13][:, ::2], levels[7])


def test_a_level_makes_frames_of_its_own_in_between(whole):
    fine = next(c.below for c in whole[0] if c.below is not None and c.below.shape[1] == 7)
    assert not any(torch.equal(fine[:, i], fine[:, i - 1]) for i in range(1, 7))


def test_windows_of_the_second_stage_meet_in_one_frame(whole):
    windows = whole[1][-4 * LONG["steps_2"] + 1 :: LONG["steps_2"]]
    assert len(windows) == 4
    for before, after in itertools.pairwise(windows):
        assert np.array_equal(before[-1], after[0])


def test_the_video_is_what_the_windows_of_the_second_stage_made(whole):
    windows = whole[1][-4 * LONG["steps_2"] + 1 :: LONG["steps_2"]]
    joined = np.concatenate([windows[0], *(window[1:] for window in windows[1:])])
    assert np.abs(joined.astype(int) - whole[2]).max() <= 1


def test_each_level_is_told_its_own_framerate(generator, ask):
    told = [d._denoiser.cond.framerate[0].item() for d in walked(generator, ask(1, **LONG))]
    expected = [math.log2(1 + 24 / fps) for fps in (3, 6, 12)]
    assert list(dict.fromkeys(told)) == pytest.approx(expected)


def test_only_the_first_stage_oscillates(generator, ask):
    seen = {
        (denoising.stage, denoising._denoiser.guidance.low_scale)
        for denoising in walked(generator, ask(1, guidance_low=2.0))
    }
    assert seen == {(1, 2.0), (2, None)}


def test_progress_counts_the_steps_of_every_window(generator, ask):
    seen = [(d.steps_done, d.progress) for d in walked(generator, ask(1, **LONG))]
    assert [done for done, _ in seen] == list(range(1, STEPS + 1))
    assert [percent for _, percent in seen] == [min(99, 100 * i // STEPS) for i, _ in seen]


@pytest.mark.parametrize("stop_after", [2, 8, 14, 21, 24, STEPS])
def test_a_state_saved_in_any_window_goes_on_to_the_identical_video(
    generator, ask, whole, stop_after
):
    for denoising in walked(generator, ask(1, **LONG)):
        if denoising.steps_done == stop_after:
            break
    resumed = generator.resume([ask(1, **LONG)], [Saved.unpack(denoising.save(0).pack())])
    assert resumed.steps_done == stop_after
    while not resumed.done:
        resumed.advance()
    assert np.array_equal(resumed.videos()[0], whole[2])


def test_a_state_holds_no_more_than_its_docstring_says(generator, ask):
    small, large = (
        max(
            len(d.save(0).pack())
            for d in walked(generator, ask(1, **LONG | {"num_frames": frames, "fps": 24.0}))
        )
        for frames in (13, 25)
    )
    per_frame = 2 * 3 * 12 * 16 * 4 + 3 * 24 * 32
    assert large - small <= 12 * per_frame


def test_a_long_video_does_not_depend_on_its_batch_mates(generator, ask, whole):
    mate = ask(2, **LONG | {"fps": 24.0})
    video = sample(generator, ask(1, **LONG), mate)[0]
    assert np.abs(video.astype(int) - whole[2]).max() <= 1


def test_videos_of_other_plans_are_not_made_together(generator, ask):
    with pytest.raises(AssertionError, match="one shape"):
        generator.begin([ask(1, **LONG), ask(2, **LONG | {"fps": 3.0})])


def test_the_first_clip_of_a_single_level_is_the_video_of_one_clip(one_level, ask):
    [long], [clip] = (sample(one_level, ask(3, num_frames=n)) for n in (7, 4))
    assert np.array_equal(long[:4], clip)


def test_fewer_frames_than_a_clip_are_cut_from_it(generator, ask):
    [cut], [clip] = (sample(generator, ask(3, num_frames=n)) for n in (3, 4))
    assert np.array_equal(cut, clip[:3])


def test_a_first_stage_alone_makes_long_videos(stages, generator, ask):
    alone = Generator(stages[0], None, generator._encoder, framerates=(24.0, 12.0, 6.0, 3.0))
    assert sample(alone, ask(1, **LONG))[0].shape == (13, 12, 16, 3)


@pytest.mark.parametrize("change", [{"reconstruction": 0.0}, {"guidance_low": 1.0}], ids=str)
def test_what_a_long_request_says_changes_the_video(one_level, ask, change):
    wanted = {"num_frames": 7, "steps": 4, "steps_2": 2}
    [plain], [changed] = (sample(one_level, ask(1, **wanted | more)) for more in ({}, change))
    assert not np.array_equal(plain, changed)


def test_a_framerate_that_the_model_never_saw_is_refused(generator, ask):
    with pytest.raises(ValueError, match=r"between 3 and 24 per second.*got 2"):
        generator.begin([ask(1, num_frames=7, fps=2.0)])


def test_a_state_of_another_format_is_refused(generator, ask):
    saved = generator.begin([ask()]).save(0)
    old = {"x": saved.state.x, "position": torch.tensor([1, 0, 0, 1])}
    with pytest.raises(ValueError, match=f"another format than {FORMAT}"):
        Saved.unpack(save(old))


def test_a_preview_is_the_running_window_of_the_stage(generator, ask):
    shapes = {d.preview(0).shape for d in walked(generator, ask())}
    assert shapes == {(4, 12, 16, 3), (4, 24, 32, 3)}


def test_the_last_preview_is_the_finished_clip(generator, ask):
    for denoising in walked(generator, ask()):
        preview = denoising.preview(0)
    assert np.abs(preview.astype(int) - denoising.videos()[0]).max() <= 1


def test_a_network_that_carries_no_latents_makes_and_resumes_long_videos(generator, ask):
    config = dataclasses.replace(PRESETS["unet-micro"], text_width=16)
    stage = Stage(build(config), Edm(sigma_in=2.0))
    alone = Generator(stage, None, generator._encoder, framerates=(8.0,))
    request = ask(1, num_frames=7, steps=2)
    walk = walked(alone, request)
    saved = next(walk).save(0)
    assert saved.state.latents is None
    resumed = alone.resume([request], [Saved.unpack(saved.pack())])
    while not resumed.done:
        resumed.advance()
    *_, last = walk
    assert np.array_equal(resumed.videos()[0], last.videos()[0])
