"""Fragments of training state: what is damaged or incomplete is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from infra.errors import DataError
from tests.train import toy
from train import checkpoint
from train.lamb import KINDS


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained / "half2-state", tmp_path / "state"))


def test_a_whole_checkpoint_gives_every_parameter_its_shape(folder):
    shapes = {n: p.shape for n, p in toy.Toy().named_parameters() if p.requires_grad}
    for kind in KINDS:
        assert {n: t.shape for n, t in checkpoint.weights(folder, kind).items()} == shapes
    assert checkpoint.read_state(folder)["step"] == 6
    assert checkpoint.is_whole(folder)


def test_stages_2_and_3_save_the_same_state(trained):
    second, third = (trained / f"half{stage}-state" for stage in (2, 3))
    for kind in KINDS:
        there = checkpoint.weights(third, kind)
        for name, value in checkpoint.weights(second, kind).items():
            assert torch.allclose(value, there[name], rtol=1e-5, atol=1e-7), (kind, name)


def test_a_flipped_byte_is_seen(folder):
    path = folder / "fragments-00001-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged"):
        checkpoint.read_state(folder)
    assert not checkpoint.is_whole(folder)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_rank_is_named(folder, rank):
    (folder / f"fragments-0000{rank}-of-00002.json").unlink()
    with pytest.raises(DataError, match=r"older|not a checkpoint"):
        checkpoint.weights(folder, "ema")


def test_another_format_is_refused(folder):
    path = folder / "fragments-00000-of-00002.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(DataError, match="format 9, this version reads 1"):
        checkpoint.read_state(folder)
