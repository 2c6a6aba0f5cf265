"""The network: its size, its geometry, and what each kind of conditioning may and may not do."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from train.model.fit import (
    Conditioning,
    Fit,
    FitConfig,
    framerate_token,
    resolution_token,
)
from train.model.presets import FITS, PRESETS

NUM_PARAMETERS = {
    "fit-500m": 497_934_144,
    "fit-3.9b": 3_918_008_384,
    "fit-3.9b-up": 3_931_599_944,
    "micro": 453_792,
    "micro-up": 471_752,
    "tiny": 2_771_648,
    "tiny-up": 2_810_888,
    "demo": 5_995_776,
    "demo-up": 6_080_872,
    "small": 43_425_280,
}
FULL_POSITIONS = {
    "fit-500m": 499_765_056,
    "fit-3.9b": 3_920_449_600,
    "fit-3.9b-up": 4_073_141_320,
}
MICRO = PRESETS["micro"]


def num_parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in Fit(config).parameters())


def prompts(batch=2, tokens=5):
    generator = torch.Generator().manual_seed(3)
    return Conditioning(
        text=torch.randn(batch, tokens, 16, generator=generator),
        text_mask=torch.ones(batch, tokens, dtype=torch.bool),
        drop=torch.zeros(batch, dtype=torch.bool),
        framerate=torch.ones(batch),
        resolution=torch.zeros(batch, 2),
        resolution_known=torch.ones(batch, dtype=torch.bool),
    )


@pytest.fixture
def fit():
    torch.manual_seed(0)
    return Fit(MICRO).eval()


@pytest.fixture
def clips():
    return torch.randn(2, 3, 4, 12, 16, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def run(model, clips, cond, *latents):
    return model(clips, torch.tensor([0.1, -0.3]), cond, *latents)


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert num_parameters(PRESETS[name]) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", FULL_POSITIONS)
def test_full_position_tables_cost_what_the_table_says(name):
    assert num_parameters(replace(PRESETS[name], patch_pos="full")) == FULL_POSITIONS[name]


@pytest.mark.parametrize("name", FITS)
def test_a_preset_survives_json(name):
    assert FitConfig.from_dict(PRESETS[name].to_dict()) == PRESETS[name]


def test_a_group_that_does_not_divide_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"group \(4, 3, 2\) does not divide"):
        replace(MICRO, group=(4, 3, 2))


def test_the_output_has_the_shape_of_the_clip_without_padding(fit, clips):
    f, latents = run(fit, clips, prompts())
    assert f.shape == clips.shape
    assert latents.shape == (2, 16, 64)


@pytest.mark.parametrize("patch_pos", ["factorized", "full", "group"])
def test_patches_come_back_to_where_they_were_taken(patch_pos):
    model = Fit(replace(MICRO, height=16, patch_pos=patch_pos))
    x = torch.arange(3 * 4 * 16 * 16, dtype=torch.float32).reshape(1, 3, 4, 16, 16)
    with torch.no_grad():
        model.stem = torch.nn.Identity()
        model.stem_norm = torch.nn.Identity()
        model.space_pos = torch.nn.Parameter(torch.zeros(model.space_pos.shape[0], 48))
        if model.time_pos is not None:
            model.time_pos = torch.nn.Parameter(torch.zeros(4, 48))
        assert torch.equal(model._unpatchify(model._patchify(x, None)), x)


def test_temporal_patches_come_back_to_where_they_were_taken():
    model = Fit(replace(MICRO, height=16, patch_frames=2, group=(2, 2, 2), patch_pos="full"))
    x = torch.arange(3 * 4 * 16 * 16, dtype=torch.float32).reshape(1, 3, 4, 16, 16)
    with torch.no_grad():
        model.stem = torch.nn.Identity()
        model.stem_norm = torch.nn.Identity()
        model.space_pos = torch.nn.Parameter(torch.zeros(model.space_pos.shape[0], 96))
        assert torch.equal(model._unpatchify(model._patchify(x, None)), x)


def test_temporal_patches_make_fewer_tokens_of_more_values():
    config = replace(MICRO, patch_frames=2, group=(2, 2, 2))
    assert (config.grid, config.patch_values) == ((2, 4, 4), 32)


def test_an_upsampler_takes_temporal_patches(clips):
    model = Fit(replace(MICRO, patch_frames=2, group=(2, 2, 2), low_res=True)).eval()
    cond = prompts().with_low_res(torch.zeros_like(clips), torch.zeros(2))
    assert run(model, clips, cond)[0].shape == clips.shape


def test_a_temporal_patch_that_does_not_divide_the_frames_is_refused():
    with pytest.raises(ValueError, match=r"patch_frames \(3\) must divide frames \(4\)"):
        replace(MICRO, patch_frames=3)


def test_without_read_write_feed_forwards_their_parameters_are_gone():
    z, p = MICRO.latent_width, MICRO.patch_width
    a_block = sum(8 * width**2 + 6 * width for width in (z, p))
    less = num_parameters(MICRO) - num_parameters(replace(MICRO, read_write_ff=False))
    assert less == MICRO.blocks * a_block


def test_a_network_without_read_write_feed_forwards_trains_every_parameter(clips):
    model = Fit(replace(MICRO, read_write_ff=False))
    model(clips, torch.zeros(2), prompts(), torch.randn(2, 16, 64))[0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_group_holds_one_rectangle_of_all_frames():
    model = Fit(replace(MICRO, height=16, patch_pos="group"))
    x = torch.zeros(1, 3, 4, 16, 16)
    x[..., :8, 8:] = 1
    with torch.no_grad():
        model.stem = torch.nn.Identity()
        model.stem_norm = torch.nn.Identity()
        model.space_pos = torch.nn.Parameter(torch.zeros(16, 48))
        groups = model._patchify(x, None)
    assert groups.mean((1, 2)).tolist() == [0, 1, 0, 0]


def test_dropped_text_changes_nothing(fit, clips):
    cond = prompts()
    other = replace(cond, text=-cond.text)
    assert not torch.equal(run(fit, clips, cond)[0], run(fit, clips, other)[0])
    assert torch.equal(
        run(fit, clips, cond.without_text())[0], run(fit, clips, other.without_text())[0]
    )


def test_padding_tokens_change_nothing(fit, clips):
    cond = prompts()
    cond.text_mask[:, 3:] = False
    other = replace(cond, text=torch.cat([cond.text[:, :3], 9 * cond.text[:, 3:]], dim=1))
    assert torch.equal(run(fit, clips, cond)[0], run(fit, clips, other)[0])


@pytest.mark.parametrize("name", ["framerate", "resolution"])
def test_each_token_is_heard(fit, clips, name):
    cond = prompts()
    other = replace(cond, **{name: getattr(cond, name) + 1})
    assert not torch.equal(run(fit, clips, cond)[0], run(fit, clips, other)[0])


def test_an_unknown_resolution_is_ignored(fit, clips):
    cond = replace(prompts(), resolution_known=torch.zeros(2, dtype=torch.bool))
    other = replace(cond, resolution=cond.resolution + 1)
    assert torch.equal(run(fit, clips, cond)[0], run(fit, clips, other)[0])


def test_latents_start_without_effect_and_are_masked_per_clip(fit, clips):
    first, latents = run(fit, clips, prompts())
    assert torch.equal(run(fit, clips, prompts(), latents)[0], first)
    with torch.no_grad():
        fit.carry_norm.gain.fill_(1)
    carried = run(fit, clips, prompts(), latents, torch.tensor([True, False]))[0]
    assert not torch.allclose(carried[0], first[0])
    assert torch.equal(carried[1], first[1])


def test_no_gradient_flows_into_the_first_pass(fit, clips):
    with torch.no_grad():
        fit.carry_norm.gain.fill_(1)
    latents = torch.randn(2, 16, 64, requires_grad=True)
    fit(clips, torch.zeros(2), prompts(), latents)[0].sum().backward()
    assert latents.grad is None


def test_every_parameter_gets_a_gradient(fit, clips):
    fit(clips, torch.zeros(2), prompts(), torch.randn(2, 16, 64))[0].square().sum().backward()
    silent = [name for name, p in fit.named_parameters() if p.grad is None]
    assert silent == []


def test_checkpointing_changes_no_gradient(clips):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = Fit(replace(MICRO, checkpointing=checkpointing)).train()
        torch.manual_seed(1)
        model(clips, torch.zeros(2), prompts())[0].square().sum().backward()
        gradients.append(model.stem.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_only_the_thinking_layers_drop_out(fit):
    rates = {n: m.dropout for n, m in fit.named_modules() if hasattr(m, "dropout")}
    assert {name for name, rate in rates.items() if rate} == {
        "blocks.0.self_ffs.0",
        "blocks.1.self_ffs.0",
    }


def test_a_still_has_framerate_token_zero():
    tokens = framerate_token(torch.tensor([float("inf"), 24, 8, 3]))
    assert tokens.tolist() == pytest.approx([0, 1, 2, 3.17], abs=1e-2)


def test_resolution_counts_doublings_of_64():
    token = resolution_token(torch.tensor([64.0]), torch.tensor([256.0]))
    assert token.tolist() == [[0, 2]]


@pytest.mark.parametrize(
    "name",
    ["frames", "height", "width", "patch", "patch_width", "latent_width", "context_width",
     "latents", "blocks", "layers", "patch_head", "latent_head", "text_width"],
)  # fmt: skip
def test_a_length_below_one_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} must be 1 or more, got -1"):
        replace(MICRO, **{name: -1})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 18}, r"width \(18\) must be a multiple of patch \(4\)"),
        ({"inside_height": 14}, r"inside_height \(14\) must be a multiple of patch \(4\)"),
        ({"inside_height": 8}, r"inside_height \(8\) must be height \(12\) or more"),
        ({"latents": 18}, r"latents \(18\) must split over 4 groups"),
        ({"group": (4, 0, 2)}, r"group must be three lengths .* got \(4, 0, 2\)"),
        ({"patch_head": 24}, r"patch_head \(24\) must divide min\(patch_width, latent_width\)"),
        ({"latent_head": 24}, r"latent_head \(24\) must divide latent_width \(64\)"),
        ({"context_width": 24}, r"must divide min\(latent_width, context_width\) \(24\)"),
        ({"dropout": 1.0}, r"dropout must be 0 or more and below 1, got 1.0"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_both_numbers(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(MICRO, **changes)


def test_a_clip_of_another_size_is_refused_with_both_sizes(fit, clips):
    with pytest.raises(ValueError, match=r"clip is \(2, 3, 4, 12, 12\).*takes \(2, 3, 4, 12, 16\)"):
        run(fit, clips[..., :12], prompts())


def test_text_of_another_width_is_refused_with_both_sizes(fit, clips):
    cond = replace(prompts(), text=torch.zeros(2, 5, 12))
    with pytest.raises(ValueError, match=r"text is \(2, 5, 12\).*takes \(2, 5, 16\)"):
        run(fit, clips, cond)


def test_latents_of_another_network_are_refused_with_both_sizes(fit, clips):
    with pytest.raises(ValueError, match=r"prev_latents is \(2, 8, 64\).*takes \(2, 16, 64\)"):
        run(fit, clips, prompts(), torch.zeros(2, 8, 64))


def test_a_small_clip_is_refused_where_it_should_have_been_enlarged():
    up = Fit(PRESETS["micro-up"]).eval()
    cond = prompts().with_low_res(torch.zeros(2, 3, 4, 12, 16), torch.zeros(2))
    with pytest.raises(
        ValueError, match=r"stage's clip is \(2, 3, 4, 12, 16\).*\(2, 3, 4, 24, 32\)"
    ):
        run(up, torch.zeros(2, 3, 4, 24, 32), cond)


def test_an_upsampler_without_a_clip_below_says_what_it_needs():
    up = Fit(PRESETS["micro-up"]).eval()
    with pytest.raises(ValueError, match="needs the lower stage's clip and its noise level"):
        run(up, torch.zeros(2, 3, 4, 24, 32), prompts())


def test_a_first_stage_refuses_a_clip_below(fit, clips):
    with pytest.raises(ValueError, match="no upsampler; leave low_res None"):
        run(fit, clips, prompts().with_low_res(clips, torch.zeros(2)))


class Kernels(TorchDispatchMode):
    """Notes every attention kernel: its name, how many keys, whether masked."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "attention" in str(func):
            masked = (kwargs or {}).get("attn_mask") is not None
            self.seen.append((func.__name__.split(".")[0], args[1].shape[-2], masked))
        return func(*args, **(kwargs or {}))


def test_attention_is_fused_and_only_the_text_is_masked(fit, clips):
    with Kernels() as kernels:
        run(fit, clips, prompts())
    fused = "_scaled_dot_product_flash_attention_for_cpu"
    context, patches_of_a_group, latents, latents_of_a_group = 5 + 3, 16, 16, 4
    assert kernels.seen == 2 * [
        (fused, context, True),
        (fused, patches_of_a_group, False),
        (fused, latents, False),
        (fused, latents_of_a_group, False),
    ]
