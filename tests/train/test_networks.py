"""Shapes travel through JSON and come back as the network that they describe."""

import json
from dataclasses import replace

import pytest

from train.model.fit import Fit
from train.model.networks import build, config_from_dict, preset_of
from train.model.presets import PRESETS
from train.model.unet import UNet


@pytest.mark.parametrize("name", PRESETS)
def test_a_shape_survives_json(name):
    assert config_from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


@pytest.mark.parametrize(("name", "kind"), [("micro", Fit), ("unet-micro", UNet)])
def test_a_shape_becomes_its_kind_of_network(name, kind):
    assert type(build(PRESETS[name])) is kind


def test_a_kind_of_the_future_is_named():
    with pytest.raises(ValueError, match="kind: 'mamba' is no network"):
        config_from_dict({"kind": "mamba"})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_known_by_its_shape_whatever_its_text_width(name):
    assert preset_of(replace(PRESETS[name], text_width=7, dropout=0.5)) == name


def test_a_bent_shape_has_no_name():
    assert preset_of(replace(PRESETS["micro"], latents=32)) == ""
