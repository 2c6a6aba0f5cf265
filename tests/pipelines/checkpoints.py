"""Checkpoint folders of a tiny untrained cascade, as training leaves them."""

from pathlib import Path

import torch

from train import bundle
from train.diffusion.edm import Edm
from train.model.fit import Fit
from train.model.presets import PRESETS
from train.text import build_tiny_t5, encoder_id
from train.text_config import TextSettings

WORDS = "a large red circle moves left over a plain blue background"


def save_cascade(folder: Path) -> tuple[str, str]:
    """Write both stages and the text encoder below `folder`; return the stages' folders."""
    build_tiny_t5(folder / "t5", [WORDS], width=16)
    text = TextSettings(model=str(folder / "t5"), max_tokens=8, device="cpu")
    encoder = text.model_dump(include={"model", "revision", "max_tokens", "dtype"})
    torch.manual_seed(0)
    for number, preset in enumerate(("micro", "micro-up"), start=1):
        network = Fit(PRESETS[preset])
        config = {
            "stage": number,
            "model": network.config.to_dict(),
            "edm": Edm(sigma_in=2.0 * number).to_dict(),
            "text_encoder": encoder | {"encoder_id": encoder_id(text)},
            "framerates": [8.0, 4.0],
            "native": {"source_height": 48, "source_width": 64},
            "provenance": {},
        }
        weights = network.state_dict()
        bundle.save(str(folder / f"stage{number}"), config, weights, weights)
    return str(folder / "stage1"), str(folder / "stage2")
