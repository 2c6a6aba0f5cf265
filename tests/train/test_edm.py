"""The diffusion's functions against 60-digit references, what is drawn, and the training loss."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.diffusion.edm import (
    Edm,
    draw,
    low_res_condition,
    shrink,
    training_loss,
)
from train.model.fit import Conditioning, Fit
from train.model.presets import PRESETS

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "diffusion.json").read_text())


def exact(value):
    return torch.tensor([value], dtype=torch.float64)


def conditioning(batch, width=16):
    generator = torch.Generator().manual_seed(1)
    return Conditioning(
        text=torch.randn(batch, 3, width, generator=generator),
        text_mask=torch.ones(batch, 3, dtype=torch.bool),
        drop=torch.zeros(batch, dtype=torch.bool),
        framerate=torch.ones(batch),
        resolution=torch.zeros(batch, 2),
        resolution_known=torch.ones(batch, dtype=torch.bool),
    )


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda r: f"{r['sigma_in']}-{r['sigma']}")
def test_every_function_equals_its_reference(row):
    edm = Edm(sigma_in=row["sigma_in"], sigma_data=row["sigma_data"])
    sigma, given_ = exact(row["sigma"]), {k: exact(v) for k, v in GOLDEN["inputs"].items()}
    for name in ("c_in", "c_skip", "c_out", "c_nrm", "c_noise"):
        assert getattr(edm, name)(sigma).item() == pytest.approx(row[name], rel=1e-12)
    assert edm.weight(sigma).item() == pytest.approx(row["w"], rel=1e-12)
    assert edm.clean_weight(sigma).item() == pytest.approx(row["lambda"], rel=1e-12)
    x_s = edm.noised(given_["x"], given_["eps"], sigma)
    assert x_s.item() == pytest.approx(row["x_sigma"], rel=1e-12)
    target = edm.target(given_["x"], given_["eps"], sigma)
    assert target.item() == pytest.approx(row["net_target"], rel=1e-12)
    clean = edm.denoised(x_s, given_["F"], sigma)
    assert clean.item() == pytest.approx(row["D_at_F"], rel=1e-12)
    error = edm.weight(sigma) * (given_["F"] - target) ** 2
    assert error.item() == pytest.approx(row["loss_w_form"], rel=1e-10)


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda r: f"{r['sigma_in']}-{r['sigma']}")
def test_single_precision_costs_the_loss_its_last_digit_only(row):
    edm = Edm(sigma_in=row["sigma_in"], sigma_data=row["sigma_data"])
    x, noise, f = (torch.tensor([[GOLDEN["inputs"][name]]]) for name in ("x", "eps", "F"))
    loss = edm.loss(f, x, noise, torch.tensor([row["sigma"]]))
    assert loss.item() == pytest.approx(row["loss_w_form"], rel=2e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=5, unique=True))
def test_what_a_sample_draws_depends_on_its_seed_alone(seeds):
    edm, shape = Edm(), (3, 2, 4, 4)
    together, alone = draw(seeds, shape, edm, low_shape=shape), draw(seeds[-1:], shape, edm)
    assert torch.equal(together.noise[-1:], alone.noise)
    assert torch.equal(together.sigma[-1:], alone.sigma)
    assert torch.equal(together.carry[-1:], alone.carry)


def test_draws_follow_the_settings():
    draws = draw(range(4000), (1, 1, 1, 1), Edm(p_mean=-0.4, p_std=1.5), low_shape=(1, 1, 1, 1))
    logs = draws.sigma.log()
    assert logs.mean().item() == pytest.approx(-0.4, abs=0.1)
    assert logs.std().item() == pytest.approx(1.5, abs=0.1)
    assert draws.drop.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert draws.carry.float().mean().item() == pytest.approx(0.9, abs=0.02)
    assert 0.02 <= draws.sigma_aug.min().item() < draws.sigma_aug.max().item() <= 1


def test_the_lower_clip_is_noised_before_it_is_enlarged():
    low, noise = torch.zeros(1, 3, 2, 4, 4), torch.randn(1, 3, 2, 4, 4)
    large, c_aug = low_res_condition(low, noise, torch.tensor([1.0]), (8, 8))
    assert large.shape == (1, 3, 2, 8, 8)
    assert c_aug.item() == 0
    assert torch.allclose(shrink(large, (1, 1)), shrink(noise / math.sqrt(2), (1, 1)), atol=1e-6)


def test_an_upsampler_is_told_of_the_lower_clip_in_units_of_sigma_data():
    told = []

    def network(x, c_noise, cond, latents=None, mask=None):
        told.append(cond.low_res)
        return x, None

    shape, low_shape, clips = (3, 1, 4, 4), (3, 1, 2, 2), torch.ones(1, 3, 1, 4, 4)
    for sigma_data in (1.0, 0.5):
        edm = Edm(sigma_data=sigma_data)
        draws = draw([3], shape, edm, low_shape=low_shape, self_conditioning=0)
        training_loss(network, clips, conditioning(1), edm, draws)
    s2 = draws.sigma_aug.item() ** 2
    assert torch.allclose(told[1], told[0] * math.sqrt((1 + s2) / (0.25 + s2)))


def test_saying_nothing_costs_the_weight():
    def silent(x, c_noise, cond, latents=None, mask=None):
        return torch.zeros_like(x), torch.zeros(len(x), 1, 1)

    shape = PRESETS["micro"].clip_shape
    edm, clips = Edm(sigma_in=2), torch.randn(64, *shape)
    draws = draw(range(64), shape, edm)
    loss = training_loss(silent, clips, conditioning(64), edm, draws)
    assert loss.shape == (64,)
    assert (loss / edm.weight(draws.sigma)).mean().item() == pytest.approx(1, abs=0.02)


def test_an_image_that_is_no_video_has_one_noise_in_all_frames():
    shape, seeds = (3, 4, 2, 2), [5, 6]
    usual = draw(seeds, shape, Edm(), low_shape=shape)
    draws = draw(seeds, shape, Edm(), low_shape=shape, still=[True, False])
    for noise, before in ((draws.noise, usual.noise), (draws.noise_aug, usual.noise_aug)):
        assert torch.equal(noise[0], before[0, :, :1].expand(shape))
        assert torch.equal(noise[1], before[1])


def test_marking_no_image_changes_no_loss():
    def network(x, c_noise, cond, latents=None, mask=None):
        return x.sin(), None

    edm, clips = Edm(), torch.randn(3, 3, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    losses = [
        training_loss(
            network, clips, conditioning(3), edm, draw([1, 2, 3], clips.shape[1:], edm, still=still)
        )
        for still in (None, [False] * 3)
    ]
    assert torch.equal(*losses)


def test_an_image_that_is_no_video_is_answered_by_the_mean_over_its_frames():
    answer = torch.arange(4.0)[None, None, :, None, None]  # mean 1.5

    def network(x, c_noise, cond, latents=None, mask=None):
        return answer.expand_as(x), None

    edm, image = Edm(), torch.full((1, 3, 4, 2, 2), 0.5)
    draws = draw([7], image.shape[1:], edm, still=[True])
    loss = training_loss(network, image, conditioning(1), edm, draws)
    one = edm.loss(torch.full((1, 3, 2, 2), 1.5), image[:, :, 0], draws.noise[:, :, 0], draws.sigma)
    assert loss.item() == pytest.approx(one.item(), rel=1e-6)


def test_marks_must_be_as_many_as_samples():
    with pytest.raises(ValueError, match="still has 1 values for 2 samples"):
        draw([1, 2], (3, 2, 2, 2), Edm(), still=[True])


def test_latents_are_handed_over_where_the_draw_says_so():
    seen = []

    def network(x, c_noise, cond, latents=None, mask=None):
        seen.append((latents, mask))
        return torch.zeros_like(x), torch.ones(len(x), 1, 1)

    draws = draw(range(8), (3, 1, 2, 2), Edm(), self_conditioning=0.5)
    training_loss(network, torch.zeros(8, 3, 1, 2, 2), conditioning(8), Edm(), draws)
    (no_latents, _), (latents, mask) = seen
    assert no_latents is None
    assert latents.eq(1).all()
    assert torch.equal(mask, draws.carry)


def test_the_number_of_passes_does_not_depend_on_what_a_rank_drew():
    """Else ranks of a sharded network would wait for each other for ever."""

    def num_passes(share):
        passes = []

        def network(x, c_noise, cond, latents=None, mask=None):
            passes.append(mask)
            return torch.zeros_like(x), torch.ones(len(x), 1, 1)

        for seed in range(6):
            draws = draw([seed], (3, 1, 2, 2), Edm(), self_conditioning=share)
            training_loss(network, torch.zeros(1, 3, 1, 2, 2), conditioning(1), Edm(), draws)
        return len(passes)

    assert (num_passes(0.5), num_passes(0.0)) == (12, 6)


def test_an_upsampler_makes_its_lower_clip_from_the_target():
    torch.manual_seed(0)
    low, up = PRESETS["micro"], PRESETS["micro-up"]
    edm, clips = Edm(sigma_in=4), torch.randn(2, *up.clip_shape)
    draws = draw(range(2), up.clip_shape, edm, low_shape=low.clip_shape)
    assert training_loss(Fit(up), clips, conditioning(2), edm, draws).shape == (2,)
