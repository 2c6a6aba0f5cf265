"""Checkpoints from anywhere: what serving reads of them is refused by name where it cannot be."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from infra.errors import ConfigError, DataError
from serve import weights
from serve.config import ModelSettings


@pytest.fixture
def foreign(checkpoints, tmp_path):
    """Return a copy of the first stage's checkpoint."""
    return Path(shutil.copytree(checkpoints[0], tmp_path / "foreign"))


@pytest.mark.parametrize(
    ("section", "edit", "name"),
    [
        ("model", [1, 2], "model"),
        ("model", {}, r"model\.frames"),
        ("model", {"frames": 1}, r"model\.frames: .* got '1'"),
        ("model", {"frames": True}, r"model\.frames"),
        ("model", {"frames": 10**9}, r"model\.frames: .* got '1000000000'"),
        ("model", {"height": -12}, r"model\.height"),
        ("edm", {}, r"edm\.sigma_in: Field required"),
        ("edm", {"sigma_max": 1e308}, r"edm\.sigma_max: .* got '1e\+308'"),
        ("framerates", None, "framerates"),
        ("framerates", ["a"], r"framerates\.0"),
        ("framerates", [4.0, -2.0], r"framerates\.1: .* got '-2.0'"),
        ("framerates", [float("nan")], r"framerates\.0"),
        ("framerates", [1e300], r"framerates\.0"),
        ("native", None, "native"),
        ("native", {"source_height": -5}, r"native\.source_height"),
        ("text_encoder", {}, r"text_encoder\.model"),
        ("text_encoder", {"max_tokens": 10**9}, r"text_encoder\.max_tokens"),
        ("text_encoder", {"revision": None}, r"text_encoder\.revision"),
    ],
)
def test_a_config_that_no_checkpoint_has_is_refused_by_name(foreign, section, edit, name):
    path = foreign / "config.json"
    config = json.loads(path.read_text())
    config[section] = config[section] | edit if isinstance(edit, dict) and edit else edit
    path.write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=rf"serve\.models\.stage1: .* config\.json: {name}.*choose"
    ):
        weights.find(ModelSettings(stage1=str(foreign), stage2=""))


def test_framerates_of_stills_are_infinite_and_pass(foreign):
    path = foreign / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"framerates": [2, float("inf")]}))
    served = weights.find(ModelSettings(stage1=str(foreign), stage2=""))
    assert served.facts.framerates == (2.0,)


def test_weights_that_are_no_numbers_are_refused_by_name(foreign):
    path = foreign / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["stem.bias"][0] = torch.nan
    safetensors.torch.save_file(tensors, path)
    served = weights.find(ModelSettings(stage1=str(foreign), stage2=""))
    with pytest.raises(DataError, match=r"model\.safetensors: stem\.bias .*not finite; choose"):
        weights.load(served, "cpu")
