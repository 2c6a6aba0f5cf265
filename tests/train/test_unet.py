"""The U-Net baselines: counted as specified, and what they see of a clip and its text."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from train.diffusion.edm import Edm, draw, training_loss
from train.model.fit import Conditioning
from train.model.presets import UNETS
from train.model.unet import UNet, UNetConfig
from train.model.unet_layers import ResBlock

MICRO = replace(UNETS["unet-micro"], dropout=0.0)
COUNTS = {  # without and with the tables that tell frames apart
    "unet-85m": (85_628_419, 85_628_419 + 77_824),
    "unet-284m": (281_405_187, 281_405_187 + 150_528),
    "unet-micro": (1_561_507, 1_563_299),
}
FLOPS = {"unet-85m": 0.70e12, "unet-284m": 1.87e12}


def conditioning(batch: int, tokens: int = 3, width: int = 16) -> Conditioning:
    return Conditioning(
        text=torch.arange(batch * tokens * width).mul(0.3).sin().reshape(batch, tokens, width),
        text_mask=torch.ones(batch, tokens, dtype=torch.bool),
        drop=torch.zeros(batch, dtype=torch.bool),
        framerate=torch.ones(batch),
        resolution=torch.ones(batch, 2),
        resolution_known=torch.ones(batch, dtype=torch.bool),
    )


def clips(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 12, 16, generator=torch.Generator().manual_seed(1))


def awake(config: UNetConfig = MICRO) -> UNet:
    """Return a network in which nothing is zero, so that everything has an effect."""
    torch.manual_seed(0)
    model = UNet(config)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.05 * torch.randn_like(param))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> UNet:
    return awake().requires_grad_(False)


def answer(model: UNet, x: Tensor, cond: Conditioning | None = None) -> Tensor:
    return model(x, torch.zeros(len(x)), cond or conditioning(len(x)))[0]


@pytest.mark.parametrize("name", COUNTS)
def test_it_has_the_specified_number_of_parameters(name):
    with torch.device("meta"):
        named = list(UNet(UNETS[name]).named_parameters())
    total = sum(p.numel() for _, p in named)
    tables = sum(p.numel() for n, p in named if n.endswith("positions"))
    assert (total - tables, total) == COUNTS[name]


@pytest.mark.parametrize("name", FLOPS)
def test_a_forward_costs_the_specified_operations(name):
    config = UNETS[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        x = torch.zeros(1, *config.clip_shape)
        UNet(config)(x, torch.zeros(1), conditioning(1, 128, config.text_width))
    assert counter.get_total_flops() == pytest.approx(FLOPS[name], rel=0.01)


def test_it_answers_in_the_size_of_the_clip_and_hands_nothing_over(model):
    f, latents = model(clips(), torch.zeros(2), conditioning(2))
    assert f.shape == (2, 3, 4, 12, 16)
    assert latents is None
    assert not model.config.carries


def test_it_starts_at_zero_as_adm_does():
    assert not UNet(MICRO)(clips(), torch.zeros(2), conditioning(2))[0].any()


def test_latents_of_another_network_are_refused(model):
    with pytest.raises(ValueError, match="takes no latents"):
        model(clips(), torch.zeros(2), conditioning(2), torch.zeros(2, 4, 8))


@pytest.mark.parametrize("shape", [(4, 3, 2, 12, 16), (2, 3, 4, 8, 16), (2, 3, 4, 12, 8)])
def test_a_clip_of_another_size_is_refused_with_both_sizes(model, shape):
    """Four clips of two frames would else be denoised as two clips of four."""
    words = re.escape(f"the clip is {shape}; this network takes {(shape[0], 3, 4, 12, 16)}")
    with pytest.raises(ValueError, match=words):
        answer(model, torch.zeros(shape))


def test_a_clip_below_is_refused(model):
    cond = conditioning(2).with_low_res(clips(), torch.zeros(2))
    with pytest.raises(ValueError, match="no upsampler"):
        answer(model, clips(), cond)


def test_a_frame_hears_of_the_others(model):
    x = clips(1)
    other = x.clone()
    other[:, :, 3] += 1
    moved = (answer(model, x) - answer(model, other)).abs()
    assert moved[:, :, 0].max() > 1e-4


def test_only_the_tables_tell_frames_apart():
    still = clips(1)[:, :, :1].expand(-1, -1, 4, -1, -1)
    model = awake(replace(MICRO, position_std=1.0))
    assert answer(model, still).std(dim=2).max() > 1e-4
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name.endswith("positions"):
                param.zero_()
    assert answer(model, still).std(dim=2).max() < 1e-5


def test_a_clip_does_not_depend_on_its_batch(model):
    x, cond = clips(2), conditioning(2)
    alone = replace(cond, **{k: v[1:] for k, v in vars(cond).items() if v is not None})
    assert torch.allclose(answer(model, x, cond)[1:], answer(model, x[1:], alone), atol=1e-5)


@pytest.mark.parametrize("part", ["text", "framerate", "resolution"])
def test_it_hears_what_it_is_told(model, part):
    cond = conditioning(2)
    other = replace(cond, **{part: getattr(cond, part) + 1})
    assert (answer(model, clips(), cond) - answer(model, clips(), other)).abs().max() > 1e-4


def test_it_hears_the_noise_level(model):
    first, second = (model(clips(), torch.full((2,), c), conditioning(2))[0] for c in (0.0, 0.02))
    assert (first - second).abs().max() > 1e-4


def test_a_dropped_text_leaves_no_trace(model):
    cond = conditioning(2).without_text()
    other = replace(cond, text=cond.text + 1, text_mask=cond.text_mask.roll(1))
    assert torch.equal(answer(model, clips(), cond), answer(model, clips(), other))


def test_padding_of_the_text_leaves_no_trace(model):
    cond = conditioning(2)
    cond.text_mask[:, 2] = False
    louder = cond.text.clone()
    louder[:, 2] += 5
    other = answer(model, clips(), replace(cond, text=louder))
    assert torch.equal(answer(model, clips(), cond), other)


def test_an_unknown_resolution_leaves_no_trace(model):
    cond = replace(conditioning(2), resolution_known=torch.zeros(2, dtype=torch.bool))
    other = replace(cond, resolution=cond.resolution + 3)
    assert torch.equal(answer(model, clips(), cond), answer(model, clips(), other))


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = awake(replace(MICRO, checkpointing=checkpointing)).train()
        answer(model, clips()).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_every_parameter_learns():
    model, edm = awake().train(), Edm(sigma_in=2.0)
    draws = draw([1, 2, 3, 4], MICRO.clip_shape, edm, label_dropout=0.0, self_conditioning=0.0)
    training_loss(model, clips(4), conditioning(4), edm, draws).mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_attention_reads_pixels_and_gives_them_back_without_a_copy():
    from train.model import unet_layers

    x = torch.zeros(2, 8, 3, 5).contiguous(memory_format=torch.channels_last)
    tokens = unet_layers._tokens(x)
    assert tokens.data_ptr() == x.data_ptr()
    assert tokens.is_contiguous()
    assert unet_layers._image(tokens, x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inside_height": 14}, r"inside_height \(14\) must be a multiple of 4 for 3 levels"),
        ({"inside_height": 8}, r"inside_height \(8\) must not be below height \(12\)"),
        ({"width": 18}, r"width \(18\) must be a multiple of 4"),
        ({"base": 48}, r"level 0 is 1 \* base \(48\) channels wide.*multiple of 32"),
        ({"attention": (1, 2)}, "level 0.*multiple of 64"),
        ({"attention": (2, 3)}, r"attention \(2, 3\) must name levels.* \[1, 2, 4\]"),
        ({"multiples": ()}, r"must name levels; those of multiples \(\) are \[\]"),
        ({"frames": 0}, "frames must be 1 or more, got 0"),
        ({"res_blocks": 0}, "res_blocks must be 1 or more, got 0"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1, got 1.0"),
    ],
)
def test_a_shape_that_does_not_divide_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(MICRO, **change)


def test_a_block_that_halves_takes_the_mean_of_four_pixels_and_one_that_doubles_repeats_them():
    x = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).repeat(2, 2).expand(1, 32, 4, 4)
    embedding = torch.ones(1, 8)
    halved = ResBlock(32, 32, 8, 0.0, 0.5)(x, embedding)  # its own part starts at zero
    doubled = ResBlock(32, 32, 8, 0.0, 2)(x, embedding)
    assert torch.equal(halved, torch.full((1, 32, 2, 2), 6.0))
    assert torch.equal(doubled[0, 0, 0, :4], torch.tensor([0.0, 0.0, 4.0, 4.0]))
