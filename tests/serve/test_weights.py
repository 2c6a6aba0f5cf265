"""Finding weights: what cannot be served is named by its setting before anything starts."""

import json
from pathlib import Path

import pytest
import torch

from infra.errors import ConfigError, DataError
from serve import weights
from serve.config import ModelSettings
from train.text import build_tiny_t5


def test_two_stages_make_videos_of_the_second_ones_size(checkpoints):
    served = weights.find(ModelSettings(stage1=checkpoints[0], stage2=checkpoints[1]))
    assert (served.facts.size, served.facts.num_frames) == ("32x24", 4)
    assert weights.find(ModelSettings(stage1=checkpoints[0], stage2="")).facts.size == "16x12"


def test_other_weights_have_another_digest(checkpoints):
    both = weights.find(ModelSettings(stage1=checkpoints[0], stage2=checkpoints[1]))
    first = weights.find(ModelSettings(stage1=checkpoints[0], stage2=""))
    assert both.facts.digest != first.facts.digest


def test_a_registered_name_is_looked_up(checkpoints):
    asked = []

    def registry(name, which):
        asked.append((name, which))
        return checkpoints[0]

    served = weights.find(ModelSettings(stage2=""), registry)
    assert asked == [("snapvideo-stage1", "champion")]
    assert served.stage1 == checkpoints[0]


def _unknown(name, which):
    raise DataError(f"model {name}@{which} is not registered")


@pytest.mark.parametrize(
    ("values", "registry", "message"),
    [
        ({"stage1": "/nowhere"}, None, r"serve\.models\.stage1: '/nowhere' cannot be served"),
        ({"stage1": "a@b"}, None, r"serve\.models\.stage1: 'a@b' .*registry"),
        ({"stage1": "a@b"}, _unknown, r"serve\.models\.stage1: 'a@b' .*not registered"),
        ({"stage1": "ftp://x"}, None, r"serve\.models\.stage1: 'ftp://x' .*ftp"),
    ],
)
def test_a_missing_model_is_named_by_its_setting(values, registry, message):
    with pytest.raises(ConfigError, match=message):
        weights.find(ModelSettings(**values), registry)


def test_stages_in_the_wrong_places_are_refused(checkpoints):
    with pytest.raises(ConfigError, match=r"serve\.models\.stage1: .* of stage 2"):
        weights.find(ModelSettings(stage1=checkpoints[1], stage2=""))


def test_an_upsampler_of_another_size_is_refused(checkpoints, tmp_path):
    config = json.loads(Path(checkpoints[1], "config.json").read_text())
    reads = {"low_res": {"height": 28, "width": 32}}
    Path(tmp_path, "config.json").write_text(json.dumps(config | reads))
    with pytest.raises(ConfigError, match=r"serve\.models\.stage2: .* enlarges"):
        weights.find(ModelSettings(stage1=checkpoints[0], stage2=str(tmp_path)))


def test_a_checkpoint_of_stills_only_is_refused(checkpoints, tmp_path):
    config = json.loads(Path(checkpoints[0], "config.json").read_text())
    Path(tmp_path, "config.json").write_text(json.dumps(config | {"framerates": []}))
    with pytest.raises(ConfigError, match=r"serve\.models\.stage1: .* framerate"):
        weights.find(ModelSettings(stage1=str(tmp_path), stage2=""))


def test_another_text_encoder_than_in_training_is_refused(checkpoints, tmp_path):
    build_tiny_t5(tmp_path, ["other words"], width=16)
    served = weights.find(ModelSettings(stage1=checkpoints[0], stage2="", text_model=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"serve\.models\.text_model"):
        weights.load(served, "cpu")


def test_a_gpu_that_is_not_there_is_named_by_its_setting(checkpoints):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    served = weights.find(ModelSettings(stage1=checkpoints[0], stage2=""))
    with pytest.raises(ConfigError, match=r"serve\.device: cuda"):
        weights.load(served, "cuda")
