"""Numbers that no diffusion has are refused by name."""

import math

import pytest
import torch

from train.diffusion.edm import Edm, LowResNoise, input_scale, low_res_condition
from train.diffusion.guidance import Guidance
from train.model.fit import framerate_token, resolution_token

BAD = [0.0, -1.0, math.nan]
FUNCTIONS = ("c_in", "c_skip", "c_out", "c_nrm", "c_noise", "weight", "clean_weight")


@pytest.mark.parametrize(
    "name", ["sigma_in", "sigma_data", "p_std", "sigma_min", "sigma_max", "rho"]
)
@pytest.mark.parametrize("value", [*BAD, math.inf])
def test_a_constant_that_is_not_above_0_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0, got {value}"):
        Edm(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mean_noise_level_must_be_finite(value):
    with pytest.raises(ValueError, match=f"p_mean must be a finite number, got {value}"):
        Edm(p_mean=value)


def test_sampling_must_end_below_where_it_begins():
    with pytest.raises(ValueError, match=r"sigma_min \(80\) must be below sigma_max \(80\)"):
        Edm(sigma_min=80)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", BAD)
def test_a_sigma_that_is_not_above_0_is_refused(name, value):
    with pytest.raises(ValueError, match=f"sigma must be above 0, got {value:g}"):
        getattr(Edm(), name)(torch.tensor([1.0, value]))


@pytest.mark.parametrize("value", BAD)
def test_a_framerate_that_is_not_above_0_is_refused(value):
    with pytest.raises(ValueError, match=f"fps must be above 0, got {value:g}; a still has inf"):
        framerate_token(torch.tensor([24.0, value]))


@pytest.mark.parametrize("value", BAD)
def test_a_source_without_height_is_refused(value):
    with pytest.raises(ValueError, match=f"source height must be above 0, got {value:g}"):
        resolution_token(torch.tensor([value]), torch.tensor([64.0]))


def test_a_noise_of_0_on_the_lower_clip_is_refused():
    clip = torch.zeros(1, 3, 1, 2, 2)
    with pytest.raises(ValueError, match="sigma_aug must be above 0, got 0"):
        low_res_condition(clip, clip, torch.zeros(1), (4, 4))


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.5, 0.2), (0.1, math.inf), (math.nan, 1.0)])
def test_a_noise_range_must_ascend_from_above_0(span):
    with pytest.raises(ValueError, match=f"low {span[0]:g} and high {span[1]:g}"):
        LowResNoise(*span)


@pytest.mark.parametrize(
    ("values", "name"),
    [((0, 64, 64), "frames"), ((16, -64, 64), "width"), ((16, 64, 0), "reference width")],
)
def test_an_input_scale_needs_lengths_above_0(values, name):
    with pytest.raises(ValueError, match=f"^{name} must be a finite number above 0"):
        input_scale(*values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("scale", bad) for bad in (0.9, math.nan, math.inf)],
        *[("low_scale", bad) for bad in (0.0, math.nan)],
        *[("high_share", bad) for bad in (-0.1, 1.1, math.nan)],
        *[("percentile", bad) for bad in (0.0, 1.01, math.nan)],
        *[("reconstruction", bad) for bad in (-1.0, math.nan, math.inf)],
    ],
)
def test_a_guidance_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"guidance {name} must be .*, got {value}"):
        Guidance(**{name: value})
