"""Given frames: the table on a Gaussian whose frames correlate, and what a walk keeps of them."""

import json
from pathlib import Path

import pytest
import torch

from tests.train.walks import carrying_fit, prompts
from train.diffusion.edm import Edm
from train.diffusion.guidance import Guidance, GuidedDenoiser, Known
from train.diffusion.sampler import SamplerState, begin, finish, noise_levels, unit_noise, walk

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "reconstruction.json").read_text())


@pytest.fixture(scope="module")
def fit():
    return carrying_fit()


def best_network(edm, frames, correlation):
    """Return the best F for frames of one value each, a Gaussian of unit variance."""
    time = torch.arange(frames, dtype=torch.float64)
    covariance = correlation ** (time[:, None] - time).abs()

    def network(x_in, c_noise, cond, latents=None, mask=None):
        sigma = (4 * c_noise[0].double()).exp()
        x = x_in.double() / edm.c_in(sigma)
        noise = (edm.sigma_in * sigma) ** 2 * torch.eye(frames, dtype=torch.float64)
        gain = covariance @ torch.linalg.inv(covariance + noise) * edm.sigma_in
        clean = torch.einsum("ij,bcjhw->bcihw", gain, x)
        return (clean - edm.c_skip(sigma) * x) / edm.c_out(sigma), None

    return network


def given(values, batch=1, frames=4):
    """Return clips of one pixel and one channel with some frames given."""
    clip, mask = torch.full((batch, 1, frames, 1, 1), torch.nan), torch.zeros(batch, frames)
    for frame, value in values.items():
        clip[:, :, int(frame)] = value
        mask[:, int(frame)] = 1
    return Known(clip.double(), mask.bool())


def pictures(mask):
    """Return given frames of the size that the micro preset makes."""
    clip = torch.rand(len(mask), 3, 4, 12, 16, generator=torch.Generator().manual_seed(4))
    return Known(2 * clip - 1, torch.tensor(mask))


@pytest.mark.parametrize(
    "row",
    GOLDEN["rows"],
    ids=lambda r: f"{len(r['known'])}-{r['sigma_in']}-{r['weight']}-{r['calibrated']}",
)
def test_correlated_frames_come_out_as_the_table_says(row):
    """The walk is affine in its noise: one without gives the mean, unit ones the variance."""
    frames, edm = GOLDEN["frames"], Edm(sigma_in=row["sigma_in"])
    known = given(row["known"], frames + 1, frames)
    guidance = Guidance(
        1.0, threshold=False, reconstruction=row["weight"], calibrated=row["calibrated"]
    )
    noise = torch.cat([torch.zeros(1, frames), torch.eye(frames)]).double()[:, None, :, None, None]
    start = edm.sigma_max * noise + known.put_into(torch.zeros_like(noise)) / edm.sigma_in
    network = best_network(edm, frames, GOLDEN["correlation"])
    denoise = GuidedDenoiser(network, edm, prompts(frames + 1), guidance, known=known)
    ends = finish(walk(denoise, SamplerState(start), edm, GOLDEN["steps"]), edm)
    mean, slopes = ends[0].flatten(), (ends[1:] - ends[0]).flatten(1)
    free = ~known.mask[0]
    assert mean[free].tolist() == pytest.approx(row["mean"], rel=1e-6)
    assert (slopes**2).sum(0)[free].tolist() == pytest.approx(row["var"], rel=1e-6)


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_given_frames_come_back_exactly(fit, weight):
    """The scale is no power of two, so that the walk itself ends at them only to rounding."""
    edm = Edm(sigma_in=2.7)
    known = pictures([[True, False, False, True], [False, True, False, False]])
    guidance = Guidance(3.0, reconstruction=weight)
    denoise = GuidedDenoiser(fit, edm, prompts(2), guidance, known=known)
    start = begin([1, 2], fit.config.clip_shape, edm, known)
    end = walk(denoise, start, edm, 4)
    for clips, tolerance in ((finish(end, edm, known), 0), (finish(end, edm), 1e-12)):
        off = (clips - known.clip.double()).abs().amax((1, 3, 4))[known.mask]
        assert off.max() <= tolerance


def test_given_frames_stay_on_the_line_between_noise_and_themselves(fit):
    edm, known = Edm(sigma_in=2), pictures([[True, False, False, False]])
    denoise = GuidedDenoiser(fit, edm, prompts(1), Guidance(2.0), known=known)
    start = begin([1], fit.config.clip_shape, edm, known)
    half = walk(denoise, start, edm, 6, on_step=lambda done, total, preview: done == 3)
    noise = noise_levels(edm, 6)[3] * unit_noise([1], fit.config.clip_shape)
    expected = known.clip.double() / edm.sigma_in + noise
    assert torch.allclose(half.x[:, :, 0], expected[:, :, 0], rtol=1e-9)


def test_both_evaluations_of_a_step_put_the_given_frames_in_place():
    edm, known, seen = Edm(), given({0: 0.5}), []
    network = best_network(edm, 4, 0.95)
    denoise = GuidedDenoiser(network, edm, prompts(1), Guidance(1.0), known=known)

    def watched(x, sigma, progress, latents):
        clean, latents = denoise(x, sigma, progress, latents)
        seen.append(clean[0, 0, 0].item())
        return clean, latents

    walk(watched, begin([1], (1, 4, 1, 1), edm, known), edm, 2)
    assert seen == [0.5, 0.5, 0.5]


def test_a_guided_walk_taken_up_again_ends_where_an_unbroken_one_does(fit):
    edm, known = (
        Edm(sigma_in=2),
        pictures([[True, False, True, False], [True, False, False, False]]),
    )
    start = begin([1, 2], fit.config.clip_shape, edm, known)

    def denoiser():
        return GuidedDenoiser(fit, edm, prompts(2), Guidance(3.0), known=known)

    unbroken = walk(denoiser(), start, edm, 5)
    half = walk(denoiser(), start, edm, 5, on_step=lambda done, total, preview: done == 2)
    resumed = walk(denoiser(), half, edm, 5)
    assert torch.equal(resumed.x, unbroken.x)
    assert torch.equal(resumed.latents, unbroken.latents)


def test_a_sample_without_given_frames_is_as_if_alone(fit):
    edm, known = Edm(sigma_in=2), pictures([[True, False, False, False], [False] * 4])
    x, sigma = unit_noise([1, 2], fit.config.clip_shape), torch.tensor(1.0, dtype=torch.float64)
    pulled = GuidedDenoiser(fit, edm, prompts(2), Guidance(3.0), known=known)
    free = GuidedDenoiser(fit, edm, prompts(2), Guidance(3.0))
    with_mate, alone = (each(x, sigma, (0, 2), None)[0] for each in (pulled, free))
    assert torch.allclose(with_mate[1], alone[1], atol=1e-6)
    assert not torch.allclose(with_mate[0, :, 1:], alone[0, :, 1:], atol=1e-4)


def test_nothing_is_differentiated_where_no_frame_pulls(fit):
    edm, x = Edm(sigma_in=2), unit_noise([1], fit.config.clip_shape)
    seen, sigma = [], torch.tensor(1.0, dtype=torch.float64)

    def network(*values):
        seen.append(torch.is_grad_enabled())
        return fit(*values)

    for mask, weight in (([[False] * 4], 4.0), ([[True] * 4], 0.0), ([[True] * 4], 4.0)):
        guidance = Guidance(2.0, reconstruction=weight)
        GuidedDenoiser(network, edm, prompts(1), guidance, known=pictures(mask))(
            x, sigma, (0, 2), None
        )
    assert seen == [False, False, True]


def test_clips_are_squeezed_after_the_pull(fit):
    edm, known = Edm(sigma_in=2), pictures([[True, False, False, False]])
    guidance = Guidance(2.0, reconstruction=1e4)
    x, sigma = unit_noise([1], fit.config.clip_shape), torch.tensor(1.0, dtype=torch.float64)
    denoise = GuidedDenoiser(fit, edm, prompts(1), guidance, known=known)
    assert denoise(x, sigma, (0, 2), None)[0].abs().max() <= 1


def test_the_pull_leaves_no_gradient_behind(fit):
    edm, known = Edm(sigma_in=2), pictures([[True, False, False, False]])
    denoise = GuidedDenoiser(fit, edm, prompts(1), Guidance(2.0), known=known)
    end = walk(denoise, begin([1], fit.config.clip_shape, edm, known), edm, 2)
    assert not end.x.requires_grad
    assert not end.latents.requires_grad


def test_known_frames_of_another_size_are_refused():
    known = Known(torch.zeros(1, 3, 4, 24, 32), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\[1, 3, 4, 24, 32\].*\[1, 3, 4, 12, 16\]"):
        begin([1], (3, 4, 12, 16), Edm(), known)


def test_a_mask_must_have_a_value_for_every_frame():
    with pytest.raises(ValueError, match=r"bool \[1, 3\]; clips .* need torch.bool \[1, 4\]"):
        Known(torch.zeros(1, 3, 4, 2, 2), torch.ones(1, 3, dtype=torch.bool))
