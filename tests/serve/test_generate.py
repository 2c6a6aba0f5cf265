"""The cascade: determinism, independence of batch mates, resuming, steering."""

import numpy as np
import pytest

from serve.state import Saved


def sample(generator, *requests):
    denoising = generator.begin(requests)
    while not denoising.done:
        denoising.advance()
    return denoising.videos()


def test_a_video_has_the_second_stages_size(generator, ask):
    [video] = sample(generator, ask())
    assert (video.shape, video.dtype) == ((4, 24, 32, 3), np.uint8)


def test_the_same_seed_gives_the_same_video_and_another_seed_another(generator, ask):
    [first], [again], [other] = (sample(generator, ask(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_video_does_not_depend_on_its_batch_mates(generator, ask):
    wanted = ask(5, negative_prompt="blue")
    mates = [ask(seed, prompt="small blue square up", fps=24.0) for seed in range(6, 12)]
    first = sample(generator, *mates[:3], wanted)[3]
    assert np.array_equal(first, sample(generator, *mates[3:], wanted)[3])


@pytest.mark.parametrize("num_mates", [0, 1, 6])
def test_group_sizes_change_a_video_by_at_most_one_grey_level(generator, ask, num_mates):
    first = sample(generator, *(ask(seed) for seed in (5, 6, 7, 8)))[0]
    mates = [ask(seed) for seed in range(6, 6 + num_mates)]
    other = sample(generator, *mates, ask(5))[-1]
    assert np.abs(first.astype(int) - other).max() <= 1


@pytest.mark.parametrize("stop_after", [1, 5, 6, 8])
def test_a_saved_state_goes_on_to_the_identical_video(generator, ask, stop_after):
    requests = [ask(1), ask(2), ask(3)]
    whole = sample(generator, *requests)
    denoising = generator.begin(requests)
    for _ in range(stop_after):
        denoising.advance()
    packed = [denoising.save(index).pack() for index in (1, 2)]
    resumed = generator.resume(requests[1:], [Saved.unpack(data) for data in packed])
    assert resumed.steps_done == stop_after
    while not resumed.done:
        resumed.advance()
    assert np.array_equal(resumed.videos(), whole[1:])
    assert resumed.save(0).row == 1


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "small blue square up"},
        {"negative_prompt": "blue"},
        {"fps": 24.0},
        {"guidance": 6.0},
        {"guidance_2": 3.0},
        {"sigma_aug": 0.6},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_request_says_changes_the_video(generator, ask, change):
    [plain], [changed] = sample(generator, ask()), sample(generator, ask(**change))
    assert not np.array_equal(plain, changed)


def test_progress_rises_to_99_and_ends_there(generator, ask):
    denoising, seen = generator.begin([ask()]), []
    while not denoising.done:
        denoising.advance()
        seen.append(denoising.progress)
    assert seen == sorted(seen)
    assert (len(seen), seen[-1]) == (10, 99)
