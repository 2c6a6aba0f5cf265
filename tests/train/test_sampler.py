"""The sampler on a Gaussian whose best denoiser is known, and its state between steps."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.walks import carrying_fit, prompts
from train.diffusion.edm import Edm
from train.diffusion.guidance import Guidance, GuidedDenoiser, squeezed
from train.diffusion.sampler import SamplerState, begin, finish, noise_levels, unit_noise, walk

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "sampler.json").read_text())
DIFFUSION = json.loads((DATA / "diffusion.json").read_text())


def gaussian(edm, mean, variance):
    def denoise(x, sigma, progress, latents):
        a = edm.sigma_in
        return mean + variance * a / (variance + (a * sigma) ** 2) * (x - mean / a), latents

    return denoise


def gaussian_ends(edm, variance, steps, *, mean=0.0, unit=1.0, solver="heun"):
    """Return what walks from no noise and from a unit of it end at; they are affine in it."""
    starts = edm.sigma_max * unit * torch.tensor([0.0, 1.0], dtype=torch.float64)
    denoise = gaussian(edm, mean, variance)
    return finish(walk(denoise, SamplerState(starts), edm, steps, solver=solver), edm).tolist()


@pytest.fixture(scope="module")
def fit():
    return carrying_fit()


def test_noise_levels_fall_from_80_to_0():
    levels = noise_levels(Edm(), 18)
    assert levels.tolist() == pytest.approx(GOLDEN["schedule_18"], rel=1e-12)


@pytest.mark.parametrize(
    "row", GOLDEN["rows"], ids=lambda r: f"{r['solver']}-{r['sigma_in']}-{r['steps']}"
)
def test_a_gaussian_comes_out_as_the_table_says(row):
    edm = Edm(sigma_in=row["sigma_in"])
    at_0, at_1 = gaussian_ends(
        edm, GOLDEN["var"], row["steps"], mean=GOLDEN["mu"], solver=row["solver"]
    )
    assert at_0 == pytest.approx(row["mean"], rel=1e-9)
    assert at_1 - at_0 == pytest.approx(row["slope"], rel=1e-9)


@pytest.mark.parametrize(
    "row",
    GOLDEN["other_variances"],
    ids=lambda r: f"{r['solver']}-{r['sigma_in']}-{r['var']}-{r['steps']}",
)
def test_faint_directions_of_the_data_lose_the_variance_that_the_table_says(row):
    """Sampling stops at the noise sigma_in * sigma_min, which hides what is fainter."""
    edm = Edm(sigma_in=row["sigma_in"])
    at_0, at_1 = gaussian_ends(edm, row["var"], row["steps"], solver=row["solver"])
    error = (at_1 - at_0) ** 2 / row["var"] - 1
    assert error == pytest.approx(row["var_rel_err"], rel=1e-7)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.5, 40), st.floats(0.01, 9), st.floats(-1, 1), st.sampled_from(["heun", "euler"]))
def test_a_scaled_input_is_plain_edm_at_scaled_noise_levels(a, variance, mean, solver):
    scaled, plain = Edm(sigma_in=a), Edm(sigma_in=1, sigma_max=80 * a, sigma_min=0.002 * a)
    x = unit_noise([5], (1, 1, 2, 2))
    ends = [
        walk(gaussian(e, mean, variance), SamplerState(e.sigma_max * x), e, 8, solver=solver)
        for e in (scaled, plain)
    ]
    assert torch.allclose(finish(ends[0], scaled), finish(ends[1], plain), rtol=1e-9)


@pytest.mark.parametrize("a", [4.0, 32.0])
def test_a_power_of_two_scales_plain_edm_without_any_rounding(a):
    scaled, levels = Edm(sigma_in=a), noise_levels(Edm(sigma_in=a), 20)
    x = plain = a * scaled.sigma_max * unit_noise([5], (1, 1, 2, 2))
    denoise = gaussian(Edm(sigma_in=1), 0.25, 1.0)
    for now, then in itertools.pairwise(a * levels):
        slope = (plain - denoise(plain, now, (0, 1), None)[0]) / now
        plain = plain + (then - now) * slope
    end = walk(gaussian(scaled, 0.25, 1.0), SamplerState(x / a), scaled, 20, solver="euler")
    assert torch.equal(finish(end, scaled), plain)


@pytest.mark.parametrize(("a", "std"), [(4.0, 7e6), (32.0, 2e31)])
def test_a_sampler_that_does_not_divide_the_clean_clip_would_explode(a, std):
    """The table finds a sampler out that forgets sigma_in: here it is undone by the denoiser."""
    edm = Edm(sigma_in=a)

    def undone(x, sigma, progress, latents):
        clean, _ = gaussian(edm, 0.3, 1.0)(x, sigma, progress, latents)
        return a * clean, latents

    starts = edm.sigma_max * torch.tensor([0.0, 1.0], dtype=torch.float64)
    at_0, at_1 = finish(walk(undone, SamplerState(starts), edm, 256), edm).tolist()
    assert at_1 - at_0 == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize(("a", "std"), [(4.0, 0.250), (32.0, 0.031)])
def test_a_sampler_that_scales_its_first_noise_would_come_out_faint(a, std):
    at_0, at_1 = gaussian_ends(Edm(sigma_in=a), 1.0, 256, unit=1 / a)
    assert at_1 - at_0 == pytest.approx(std, abs=5e-4)


@pytest.mark.parametrize("a", [4.0, 32.0])
def test_a_sampler_that_does_not_multiply_at_the_end_would_come_out_faint(a):
    edm = Edm(sigma_in=a)
    starts = edm.sigma_max * torch.tensor([0.0, 1.0], dtype=torch.float64)
    at_0, at_1 = walk(gaussian(edm, 0.3, 1.0), SamplerState(starts), edm, 256).x.tolist()
    assert at_1 - at_0 == pytest.approx(1 / a, rel=5e-3)


@pytest.mark.parametrize("row", DIFFUSION["rows"], ids=lambda r: f"{r['sigma_in']}-{r['sigma']}")
def test_a_step_follows_the_slope_of_the_reference(row):
    edm = Edm(sigma_in=row["sigma_in"], sigma_max=row["sigma"], sigma_min=row["sigma"] / 2)
    x, clean = (torch.tensor(row[name], dtype=torch.float64) for name in ("x_sigma", "D_at_F"))
    once = {"solver": "euler", "on_step": lambda *_: True}
    end = walk(lambda *_: (clean, None), SamplerState(x), edm, 2, **once)
    slope = (end.x - x) / (row["sigma"] / 2 - row["sigma"])
    assert slope.item() == pytest.approx(row["ode_derivative"], rel=1e-10)


def test_a_walk_needs_two_steps():
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        noise_levels(Edm(), 1)


def test_a_walk_taken_up_again_ends_where_an_unbroken_one_does(fit):
    edm = Edm(sigma_in=2)
    denoise = GuidedDenoiser(fit, edm, prompts(2), Guidance(3.0))
    start = begin([1, 2], fit.config.clip_shape, edm)
    unbroken = walk(denoise, start, edm, 6)
    half = walk(denoise, start, edm, 6, on_step=lambda done, total, preview: done == 3)
    assert half.step == 3
    resumed = walk(denoise, half, edm, 6)
    assert torch.equal(resumed.x, unbroken.x)
    assert torch.equal(resumed.latents, unbroken.latents)


def test_steps_are_reported_with_a_preview_in_range(fit):
    edm, seen = Edm(sigma_in=2), []

    def on_step(done, total, preview):
        seen.append((done, total))
        assert preview.abs().max() <= 1
        return False

    denoise = GuidedDenoiser(fit, edm, prompts(1), Guidance(2.0))
    walk(denoise, begin([1], fit.config.clip_shape, edm), edm, 4, on_step=on_step)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_clip_does_not_depend_on_its_batch(fit):
    edm = Edm(sigma_in=2)
    ends = []
    for seeds in ([7], [3, 7, 9]):
        denoise = GuidedDenoiser(fit, edm, prompts(len(seeds)), Guidance(3.0))
        end = walk(denoise, begin(seeds, fit.config.clip_shape, edm), edm, 5)
        ends.append(finish(end, edm)[seeds.index(7)])
    assert torch.allclose(*ends, atol=1e-5)


def test_scale_one_is_the_network_with_its_text(fit):
    edm, cond = Edm(sigma_in=2), prompts(1)
    x, sigma = unit_noise([1], fit.config.clip_shape), torch.tensor(1.0, dtype=torch.float64)
    clean, latents = GuidedDenoiser(fit, edm, cond, Guidance(1.0, threshold=False))(
        x, sigma, (0, 2), None
    )
    with torch.no_grad():
        f, _ = fit((edm.c_in(sigma) * x).float(), edm.c_noise(sigma).float()[None], cond)
    assert torch.allclose(clean, edm.denoised(x, f.double(), sigma))
    assert latents.shape == (1, 1, 16, 64)


def test_each_branch_carries_its_own_latents(fit):
    edm, cond = Edm(sigma_in=2), prompts(2)
    denoise = GuidedDenoiser(fit, edm, cond, Guidance(3.0))
    x, sigma = unit_noise([1, 2], fit.config.clip_shape), torch.tensor(1.0, dtype=torch.float64)
    _, latents = denoise(x, sigma, (0, 2), None)
    _, with_text = GuidedDenoiser(fit, edm, cond, Guidance(1.0))(x, sigma, (0, 2), None)
    _, without = GuidedDenoiser(fit, edm, cond.without_text(), Guidance(1.0))(
        x, sigma, (0, 2), None
    )
    assert torch.allclose(latents[:, :1], with_text, atol=1e-5)
    assert torch.allclose(latents[:, 1:], without, atol=1e-5)


class Echo:
    """A network that answers with its input and counts, in the latents, how often it was asked."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, c_noise, cond, latents=None, mask=None):
        self.rows.append(len(x))
        return x, torch.ones(len(x), 1, 1) if latents is None else latents + 1


def test_a_step_of_scale_one_asks_the_text_alone_but_for_the_first():
    network, swinging = Echo(), Guidance(3.0, low_scale=1.0, high_share=0)
    start = begin([1], (3, 1, 2, 2), Edm())
    walk(GuidedDenoiser(network, Edm(), prompts(1), swinging), start, Edm(), 4)
    assert network.rows == [2, 2, 2, 2, 1, 1, 2]  # Heun asks twice a step, once at the last


def test_every_evaluation_hands_its_latents_to_the_next():
    """Four Heun steps are seven evaluations; a second one of a step continues the first."""
    start = begin([1], (3, 1, 2, 2), Edm())
    end = walk(GuidedDenoiser(Echo(), Edm(), prompts(1), Guidance(3.0)), start, Edm(), 4)
    assert end.latents.flatten().tolist() == [7, 7]


def test_a_branch_that_is_not_asked_keeps_its_latents():
    swinging = Guidance(3.0, low_scale=1.0, high_share=0)
    denoise = GuidedDenoiser(Echo(), Edm(), prompts(1), swinging)
    x, sigma = unit_noise([1], (3, 1, 2, 2)), torch.tensor(1.0, dtype=torch.float64)
    _, latents = denoise(x, sigma, (2, 4), torch.tensor([[[[5.0]], [[7.0]]]]))
    assert latents.flatten().tolist() == [6, 7]


def test_a_swinging_walk_taken_up_again_ends_where_an_unbroken_one_does(fit):
    edm, swinging = Edm(sigma_in=2), Guidance(4.0, low_scale=1.0, high_share=0.2)
    denoise = GuidedDenoiser(fit, edm, prompts(2), swinging)
    start = begin([1, 2], fit.config.clip_shape, edm)
    unbroken = walk(denoise, start, edm, 5)
    half = walk(denoise, start, edm, 5, on_step=lambda done, total, preview: done == 2)
    assert torch.equal(walk(denoise, half, edm, 5).x, unbroken.x)


def test_a_network_that_hands_nothing_over_can_be_guided():
    def network(x, c_noise, cond, latents=None, mask=None):
        assert latents is None
        return x * (2 - cond.drop.float())[:, None, None, None, None], None

    edm, x = Edm(), unit_noise([1], (3, 1, 2, 2))
    sigma = torch.tensor(1.0, dtype=torch.float64)
    denoise = GuidedDenoiser(network, edm, prompts(1), Guidance(3.0, threshold=False))
    clean, latents = denoise(x, sigma, (0, 2), None)
    with_text_by_3 = 4 * (edm.c_in(sigma) * x).float().double()  # 1 + 3*(2 - 1)
    assert torch.allclose(clean, edm.denoised(x, with_text_by_3, sigma))
    assert latents is None


def test_guidance_starts_high_and_then_swings():
    guidance = Guidance(scale=8, low_scale=2, high_share=0.2)
    assert [guidance.at(step, 10) for step in range(6)] == [8, 8, 2, 8, 2, 8]
    assert Guidance(scale=4).at(5, 10) == 4


def test_a_share_that_is_no_whole_number_of_steps_is_rounded_up():
    guidance = Guidance(scale=8, low_scale=2, high_share=0.1)
    assert [guidance.at(step, 256) for step in range(24, 29)] == [8, 8, 2, 8, 2]


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.001, 1), st.integers(0, 9))
def test_thresholding_clips_at_torchs_quantile(size, share, seed):
    generator = torch.Generator().manual_seed(seed)
    clips = 9 * torch.randn(2, size, dtype=torch.float64, generator=generator)
    bound = torch.quantile(clips.abs(), share, dim=1, keepdim=True).clamp(min=1)
    assert torch.equal(squeezed(clips, share), clips.clamp(-bound, bound) / bound)


def test_a_guided_clip_is_clipped_at_the_share_that_is_asked_for():
    edm, x = Edm(), unit_noise([1], (3, 1, 8, 8))
    sigma = torch.tensor(1.0, dtype=torch.float64)
    raw, half = (
        GuidedDenoiser(Echo(), edm, prompts(1), guidance)(9 * x, sigma, (0, 2), None)[0]
        for guidance in (Guidance(1.0, threshold=False), Guidance(1.0, percentile=0.5))
    )
    assert torch.equal(half, squeezed(raw, 0.5))


def test_thresholding_squeezes_only_what_leaves_the_range():
    inside, outside = torch.full((1, 3, 1, 2, 2), 0.9), torch.full((1, 3, 1, 2, 2), 2.0)
    clean = squeezed(torch.cat([inside, outside]))
    assert torch.equal(clean[:1], inside)
    assert torch.equal(clean[1:], torch.ones_like(outside))
