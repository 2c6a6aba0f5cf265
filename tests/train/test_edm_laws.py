"""The laws that tie the diffusion's functions together, for any sigma, sigma_in and sigma_data."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.diffusion.edm import Edm, input_scale

LAW = settings(deadline=None)
SIGMA = st.floats(2e-3, 80)
EDM = st.builds(Edm, sigma_in=st.floats(0.5, 40), sigma_data=st.floats(0.2, 3))


def exact(value):
    return torch.tensor([value], dtype=torch.float64)


def responses(edm, sigma):
    """Return how input and target answer to a clip of one sigma_data and to a unit of noise."""
    clip, none, unit = exact(edm.sigma_data), exact(0), exact(1)
    pairs = ((clip, none), (none, unit))
    of_input = [edm.c_in(sigma) * edm.noised(x, noise, sigma) for x, noise in pairs]
    return torch.cat(of_input), torch.cat([edm.target(x, noise, sigma) for x, noise in pairs])


def mean_weight(edm):
    """Return the mean and the median of w over the noise levels of training, by quadrature."""
    z = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = (-(z**2) / 2).exp()
    weight = edm.weight((edm.p_mean + edm.p_std * z).exp())
    return ((weight * density).sum() / density.sum()).item(), weight[len(z) // 2].item()


@LAW
@given(EDM, SIGMA, st.floats(-1, 1), st.floats(-4, 4))
def test_the_target_gives_the_clean_clip_back(edm, s, x, noise):
    sigma, clip, eps = exact(s), exact(x), exact(noise)
    clean = edm.denoised(edm.noised(clip, eps, sigma), edm.target(clip, eps, sigma), sigma)
    assert clean.item() == pytest.approx(x, abs=1e-9)


@LAW
@given(EDM, SIGMA, st.floats(-1, 1), st.floats(-4, 4), st.floats(-5, 5))
def test_the_loss_is_edms_loss_on_the_clean_clip(edm, s, x, noise, f):
    sigma, clip, eps, out = exact(s), exact(x), exact(noise), exact(f)
    clean = edm.denoised(edm.noised(clip, eps, sigma), out, sigma)
    by_clip = edm.clean_weight(sigma) * (clean - clip) ** 2
    by_target = edm.weight(sigma) * (out - edm.target(clip, eps, sigma)) ** 2
    assert by_target.item() == pytest.approx(by_clip.item(), rel=1e-6, abs=1e-9)


@LAW
@given(EDM, SIGMA)
def test_the_two_weights_differ_by_the_square_of_c_out(edm, s):
    sigma = exact(s)
    expected = (edm.clean_weight(sigma) * edm.c_out(sigma) ** 2).item()
    assert edm.weight(sigma).item() == pytest.approx(expected, rel=1e-12)


@LAW
@given(EDM, SIGMA)
def test_input_and_target_have_unit_variance(edm, s):
    for response in responses(edm, exact(s)):
        assert response.square().sum().item() == pytest.approx(1, rel=1e-12)


@LAW
@given(st.floats(0.2, 3), SIGMA)
def test_without_input_scale_it_is_edm_with_the_sign_of_f_turned(d, s):
    edm, sigma = Edm(sigma_in=1, sigma_data=d), exact(s)
    root = math.sqrt(s * s + d * d)
    assert edm.c_in(sigma).item() == pytest.approx(1 / root, rel=1e-12)
    assert edm.c_skip(sigma).item() == pytest.approx(d * d / root**2, rel=1e-12)
    assert edm.c_out(sigma).item() == pytest.approx(-s * d / root, rel=1e-12)
    assert edm.clean_weight(sigma).item() == pytest.approx((root / (s * d)) ** 2, rel=1e-12)
    assert edm.weight(sigma).item() == pytest.approx(1, rel=1e-12)


@LAW
@given(EDM, SIGMA, st.floats(1, 10))
def test_guiding_the_network_is_guiding_the_clean_clip(edm, s, scale):
    sigma, x_s = exact(s), exact(0.4)
    with_text, without = exact(0.7), exact(-0.2)
    on_f = edm.denoised(x_s, without + scale * (with_text - without), sigma)
    clean, clean_without = (edm.denoised(x_s, f, sigma) for f in (with_text, without))
    on_d = clean_without + scale * (clean - clean_without)
    assert on_f.item() == pytest.approx(on_d.item(), rel=1e-9, abs=1e-9)


@LAW
@given(EDM, SIGMA)
def test_c_out_is_negative_at_every_noise_level(edm, s):
    assert edm.c_out(exact(s)).item() < 0


@LAW
@given(EDM, SIGMA)
def test_input_and_target_correlate_most_at_one_noise_level(edm, s):
    """rho = s*d*(a-1) / sqrt((s^2+d^2)(a^2 s^2+d^2)), (a-1)/(a+1) at s = d/sqrt(a)."""
    a, d = edm.sigma_in, edm.sigma_data
    rho = torch.dot(*responses(edm, exact(s))).item()
    formula = s * d * (a - 1) / math.sqrt((s * s + d * d) * (a * a * s * s + d * d))
    assert rho == pytest.approx(formula, rel=1e-9, abs=1e-12)
    peak = torch.dot(*responses(edm, exact(d / math.sqrt(a)))).item()
    assert peak == pytest.approx((a - 1) / (a + 1), rel=1e-9, abs=1e-12)
    assert abs(rho) <= abs(peak) + 1e-12


@pytest.mark.parametrize(
    ("sigma_in", "mean", "greatest"), [(1.0, 1.0, 1.0), (4.0, 9.36, 16.0), (32.0, 247.0, 1024.0)]
)
def test_a_network_that_says_nothing_loses_the_mean_weight(sigma_in, mean, greatest):
    edm = Edm(sigma_in=sigma_in)
    assert mean_weight(edm)[0] == pytest.approx(mean, rel=3e-3)
    assert edm.weight(exact(1e-6)).item() == pytest.approx(greatest, rel=1e-6)


def test_half_of_the_weights_of_an_upsampler_are_above_80():
    assert mean_weight(Edm(sigma_in=32))[1] == pytest.approx(80, rel=0.01)


@LAW
@given(st.integers(1, 64), st.integers(1, 8), SIGMA, st.floats(0.01, 9))
def test_an_image_shown_as_a_video_is_as_uncertain_as_edms_image(frames, enlarged, s, variance):
    """Each value stands in frames * enlarged^2 pixels, and each of them has noise of its own."""
    edm, sigma = Edm(sigma_in=input_scale(frames, 64 * enlarged, 64)), exact(s)
    signal, noise = edm.noised(exact(1), exact(0), sigma), edm.noised(exact(0), exact(1), sigma)
    precision = frames * enlarged**2 * ((signal / noise) ** 2).item()
    assert 1 / (1 / variance + precision) == pytest.approx(1 / (1 / variance + 1 / s**2), rel=1e-9)


def test_input_scale_grows_with_width_and_the_root_of_frames():
    assert input_scale(16, 64, 64) == 4
    assert input_scale(16, 512, 64) == 32
