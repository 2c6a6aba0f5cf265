"""FIT goes through torch.compile as one graph, and the compiled network gives the same numbers."""

import shutil
from dataclasses import replace

import pytest
import torch

from train.describe import conditioning
from train.diffusion.edm import Edm, draw, training_loss
from train.diffusion.guidance import Guidance, GuidedDenoiser
from train.model.networks import build
from train.model.presets import PRESETS

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
EDM = Edm(sigma_in=2.0)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(name="micro", **changes):
    torch.manual_seed(0)
    if not name.startswith("unet"):
        changes["blocks"] = 1  # compiling takes time by the block
    model = build(replace(PRESETS[name], dropout=0.0, **changes))
    if hasattr(model, "carry_norm"):
        torch.nn.init.ones_(model.carry_norm.gain)
    return model


def loss_and_gradients(model, called, self_conditioning):
    """Return the loss of a batch and every gradient, `called` being how the model is called."""
    config = model.config
    low = PRESETS["micro"].clip_shape if config.low_res else None
    clips = torch.rand(2, *config.clip_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    draws = draw([1, 2], config.clip_shape, EDM, self_conditioning=self_conditioning, low_shape=low)
    cond = replace(conditioning(config, 2, 5), low_res=None, c_aug=None)
    model.zero_grad()
    loss = training_loss(called, clips, cond, EDM, draws).mean()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def compiled_equals_eager(model, backend, self_conditioning=0.9, tolerance=1e-5):
    model.train()
    want = loss_and_gradients(model, model, self_conditioning)
    one_graph = torch.compile(model, fullgraph=True, backend=backend)
    got = loss_and_gradients(model, one_graph, self_conditioning)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("checkpointing", "self_conditioning"), [(False, 0.9), (True, 0.0)])
def test_training_is_one_graph(checkpointing, self_conditioning):
    model = network(checkpointing=checkpointing)
    compiled_equals_eager(model, "aot_eager", self_conditioning)


@pytest.mark.slow
def test_checkpointed_training_with_carried_latents_is_one_graph():
    compiled_equals_eager(network(checkpointing=True), "aot_eager")


@pytest.mark.slow
def test_an_upsampler_trains_as_one_graph():
    compiled_equals_eager(network("micro-up"), "aot_eager")


@pytest.mark.slow
def test_a_unet_trains_as_one_graph():
    compiled_equals_eager(network("unet-micro"), "aot_eager", self_conditioning=0.0)


def test_sampling_is_one_graph():
    model = network().eval().requires_grad_(requires_grad=False)
    found = []
    for called in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        denoise = GuidedDenoiser(called, EDM, conditioning(model.config, 2, 5), Guidance())
        x = torch.randn(2, *model.config.clip_shape, generator=torch.Generator().manual_seed(2))
        sigma, latents = torch.tensor(0.5, dtype=torch.float64), None
        for step in range(2):
            clean, latents = denoise(x.double(), sigma, (step, 2), latents)
        found.append(clean)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="inductor writes C++ and no c++ or g++ is installed")
def test_inductor_trains_to_the_same_numbers():
    compiled_equals_eager(network(), "inductor", tolerance=1e-4)
