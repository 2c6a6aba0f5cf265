"""The checkpoint folder that users load."""

import json
from pathlib import Path

import pytest
import torch

from infra.errors import DataError
from train import bundle
from train.blueprint import Blueprint
from train.config import TrainSettings
from train.model.presets import PRESETS


@pytest.fixture
def saved(tmp_path) -> str:
    uri = str(tmp_path / "model")
    plan = Blueprint.build(TrainSettings(), text_width=16, below=None)
    weights = plan.network(seed=1, init_bundle="").state_dict()
    facts = {"stage": 1, "text_encoder": {}, "framerates": [6.0], "provenance": {}}
    bundle.save(uri, facts | plan.to_config(), weights, {k: v + 1 for k, v in weights.items()})
    return uri


def test_what_was_saved_is_loaded_ready_to_sample(saved):
    loaded = bundle.load(saved)
    torch.manual_seed(1)
    again = Blueprint.build(TrainSettings(), 16, None).network(1, "").state_dict()
    assert all(torch.equal(again[k], v) for k, v in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert loaded.edm.sigma_in == 2.0


def test_it_lies_in_s3_as_well(saved, s3):
    from infra import storage

    storage.upload_folder(Path(saved), f"{s3}/model")
    assert bundle.load(f"{s3}/model").config["stage"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"kind": "x"}, "not a checkpoint"),
        ({"edm": None}, "cannot be used"),
        ({"model": {"kind": "mamba"}}, "kind: 'mamba' is no network"),
        ({"model": PRESETS["tiny"].to_dict()}, r"config\.json makes .*the weights hold"),
        ({"model": PRESETS["unet-micro"].to_dict()}, "the weights hold"),
    ],
)
def test_a_config_of_another_format_or_network_is_refused(saved, change, message):
    path = Path(saved, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        bundle.load(saved)


@pytest.mark.parametrize("claim", [{"latents": 1 << 40}, {"blocks": 1 << 30}])
def test_a_config_that_claims_more_than_its_weights_takes_no_memory(saved, claim):
    path = Path(saved, "config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model": config["model"] | claim}))
    with pytest.raises(DataError, match=r"config\.json (makes latents|asks for more layers)"):
        bundle.load(saved)


def test_a_config_of_brackets_alone_is_refused(saved):
    Path(saved, "config.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match="not JSON"):
        bundle.load(saved)


def test_damaged_weights_are_refused(saved):
    path = Path(saved, "model.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        bundle.load(saved)


def test_a_pickle_is_not_opened(saved):
    path = Path(saved, "model.safetensors")
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        bundle.load(saved)


def test_a_folder_without_config_does_not_count(tmp_path):
    with pytest.raises(DataError, match=r"config\.json"):
        bundle.load(str(tmp_path))
