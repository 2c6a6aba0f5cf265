"""Settings of training: what makes no sense is named with what is accepted."""

import math
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from train.config import DiffusionSettings, OptimizerSettings, ReaderSettings, TrainSettings
from train.lamb import LambSettings
from train.loop import optimizer_settings
from train.model.presets import PRESETS


@pytest.mark.parametrize("fps", [0.0, -6.0, math.nan, math.inf])
def test_what_is_no_framerate_is_named(fps):
    with pytest.raises(ValidationError, match=f"{fps} is no framerate of a video; give finite"):
        ReaderSettings(framerates=(24.0, fps))


def test_a_model_without_framerates_is_refused():
    with pytest.raises(ValidationError, match="nothing is no framerate"):
        ReaderSettings(framerates=())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("section", "name"),
    [
        (section, name)
        for section in (OptimizerSettings, DiffusionSettings, ReaderSettings, TrainSettings)
        for name, field in section.model_fields.items()
        if isinstance(field.default, float)
    ],
)
def test_no_number_of_the_settings_may_be_endless_or_none(section, name, value):
    with pytest.raises(ValidationError, match=name):
        section(**{name: value})


@pytest.mark.parametrize(
    ("low", "high"), [("sigma_min", "sigma_max"), ("sigma_aug_low", "sigma_aug_high")]
)
def test_a_range_upside_down_is_named(low, high):
    with pytest.raises(ValidationError, match=rf"{low} \(9\.0\) must .*{high} \(8\.0\)"):
        DiffusionSettings(**{low: 9.0, high: 8.0})


def test_compiling_under_zero_3_is_refused_with_a_way_out():
    with pytest.raises(ValidationError, match="set zero_stage to 2, or compile to false"):
        TrainSettings(compile=True, zero_stage=3)


def test_adam_has_no_trust_ratio_and_spares_no_parameter():
    knobs = OptimizerSettings(name="adam", beta_2=0.999)
    assert optimizer_settings(knobs) == LambSettings(
        betas=(0.9, 0.999), eps=1e-8, ratio_min=1.0, ratio_max=1.0, exempt_lr_scale=1.0
    )


def test_lamb_without_bounds_is_a_setting():
    found = optimizer_settings(OptimizerSettings(ratio_min=0, ratio_max=0))
    assert (found.ratio_min, found.ratio_max) == (0.0, math.inf)


def test_a_setting_of_lamb_under_adam_is_refused_and_not_ignored():
    with pytest.raises(ValidationError, match=r"ratio_max: of LAMB only, and name is 'adam'"):
        OptimizerSettings(name="adam", ratio_max=5.0)


@pytest.mark.parametrize("name", ["fit_500m", "unet_284m", "unet_85m"])
def test_the_papers_models_have_settings_of_a_first_stage(name):
    path = Path(__file__).parents[2] / f"train/configs/{name}.yaml"
    stage = TrainSettings(**yaml.safe_load(path.read_text())["stage1"])
    assert stage.preset == name.replace("_", "-")
    assert not PRESETS[stage.preset].low_res
