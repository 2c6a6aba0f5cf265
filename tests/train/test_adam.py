"""Adam through the sharded optimizer is torch's AdamW, decay on matrices only."""

from types import SimpleNamespace

import torch

from train.config import OptimizerSettings
from train.lamb import Lamb, treatments
from train.loop import optimizer_settings
from train.model.networks import build
from train.model.presets import UNETS

KNOBS = OptimizerSettings(name="adam", lr=1e-3, beta_2=0.999, weight_decay=0.1)


def ours(model: torch.nn.Module) -> Lamb:
    """Return the optimizer bound to a model on one rank, as DeepSpeed's stage 0 leaves it."""
    optimizer = Lamb(model, optimizer_settings(KNOBS))
    optimizer.bind(SimpleNamespace(optimizer=optimizer, basic_optimizer=optimizer, module=model))
    optimizer.set_lr(KNOBS.lr)
    return optimizer


def torchs(model: torch.nn.Module) -> torch.optim.AdamW:
    how = treatments(model, optimizer_settings(KNOBS))
    groups: dict[float, list] = {}
    for name, param in model.named_parameters():
        groups.setdefault(how[name].decay, []).append(param)
    settings = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    return torch.optim.AdamW(settings, lr=KNOBS.lr, betas=(0.9, 0.999), eps=1e-8)


def test_ten_steps_agree_with_torch_on_every_parameter():
    moved = []
    for make in (ours, torchs):
        torch.manual_seed(0)
        model = build(UNETS["unet-micro"])
        optimizer = make(model)
        for step in range(10):
            noise = torch.Generator().manual_seed(step)
            for param in model.parameters():
                param.grad = torch.randn(param.shape, generator=noise)
            optimizer.step()
        moved.append(dict(model.named_parameters()))
    for name, mine in moved[0].items():
        assert torch.allclose(mine, moved[1][name], rtol=1e-5, atol=1e-7), name
