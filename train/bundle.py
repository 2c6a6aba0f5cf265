"""The checkpoint that users load: weights as safetensors, everything else as JSON.

    model.safetensors   the averaged weights, which sample best
    raw.safetensors     the last weights, to go on from
    config.json         {"format": 1, "kind": "snapvideo-model", "stage": 1, "model": {...},
                         "edm": {...}, "text_encoder": {...}, "framerates": [...],
                         "native": {...}, "provenance": {...}}, written last

Nothing is unpickled. A folder without its config.json does not count.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from infra import storage
from infra.errors import DataError
from train.diffusion.edm import Edm
from train.model.fit import FitConfig
from train.model.networks import ModelConfig, Network, build, config_from_dict

FORMAT = 1
KIND = "snapvideo-model"
_NEEDED = ("stage", "model", "edm", "text_encoder", "framerates", "native", "provenance")


@dataclass(frozen=True)
class Bundle:
    """A loaded checkpoint: the network with averaged weights, its diffusion, and config.json."""

    model: Network
    edm: Edm
    config: dict[str, Any]


def save(
    uri: str, config: dict[str, Any], averaged: dict[str, Tensor], raw: dict[str, Tensor]
) -> None:
    """Write a checkpoint folder; its config last, so that half a folder never counts.

    Args:
        uri: The folder.
        config: The keys named in this module's head, without format and kind.
        averaged: Weights of `model.safetensors`.
        raw: Weights of `raw.safetensors`.

    Raises:
        DataError: The disk is full.
    """
    missing = [key for key in _NEEDED if key not in config]
    assert not missing, f"the config lacks {missing}"
    with tempfile.TemporaryDirectory() as scratch:
        for name, tensors in (("model", averaged), ("raw", raw)):
            path = Path(scratch, f"{name}.safetensors")
            whole = {k: tensor.contiguous() for k, tensor in tensors.items()}
            safetensors.torch.save_file(whole, path)
            storage.write_bytes(storage.join(uri, path.name), path.read_bytes())
    text = json.dumps({"format": FORMAT, "kind": KIND} | config, indent=1)
    storage.write_bytes(storage.join(uri, "config.json"), text.encode())


def read_config(uri: str) -> dict[str, Any]:
    """Return the config of a checkpoint folder without its weights.

    Raises:
        DataError: Nothing is there, or it is of another format or kind.
    """
    path = storage.join(uri, "config.json")
    try:
        config = json.loads(storage.read_text(path))
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path}: not JSON ({fault}); choose another checkpoint") from fault
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise DataError(f"{path}: not a checkpoint of snapvideo; choose a folder that it wrote")
    if config.get("format") != FORMAT:
        raise DataError(
            f"{path}: format {config.get('format')}, this version reads {FORMAT}; "
            "load it with the version that wrote it"
        )
    missing = [key for key in _NEEDED if key not in config]
    if missing:
        raise DataError(f"{path}: lacks {missing}; choose another checkpoint")
    return config


def load(uri: str) -> Bundle:
    """Return a checkpoint with its averaged weights, on the CPU, without dropout.

    Raises:
        DataError: Nothing is there, or it is damaged or of another format.
    """
    config = read_config(uri)
    path = storage.join(uri, "model.safetensors")
    try:
        if storage.is_s3(path):
            weights = safetensors.torch.load(storage.read_bytes(path))
        else:
            weights = safetensors.torch.load_file(storage.local_path(path))
        shape = config_from_dict(config["model"])
        _check_shapes(shape, weights)  # before memory is taken for what a config claims
        model = build(shape)
        model.load_state_dict(weights)
        edm = Edm.from_dict(config["edm"])
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as fault:
        raise DataError(f"{path}: cannot be used ({fault}); choose another checkpoint") from fault
    return Bundle(model.eval().requires_grad_(False), edm, config)


def _check_shapes(config: ModelConfig, weights: dict[str, Tensor]) -> None:
    """Refuse a config whose network is not the one of these weights.

    Raises:
        ValueError: It has other tensors, or one has another shape.
    """
    if _depth(config) > len(weights):  # even without memory, a layer takes its time to build
        raise ValueError(f"config.json asks for more layers than the {len(weights)} tensors hold")
    with torch.device("meta"):
        wanted = {name: tuple(one.shape) for name, one in build(config).state_dict().items()}
    found = {name: tuple(one.shape) for name, one in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"config.json makes {name} {wanted.get(name, 'absent')}, the weights hold "
                f"{found.get(name, 'none of that name')}"
            )


def _depth(config: ModelConfig) -> int:
    """Return a number of layers of which each has weights of its own."""
    if isinstance(config, FitConfig):
        return config.blocks * max(1, config.layers)
    return config.res_blocks * len(config.multiples)
