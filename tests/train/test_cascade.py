"""Starting an upsampler from the stage below it."""

import re
from dataclasses import replace

import pytest
import torch

from train.model.cascade import init_from_stage1
from train.model.fit import Fit
from train.model.presets import PRESETS


def stages(below="micro", up="micro-up"):
    torch.manual_seed(0)
    return Fit(PRESETS[below]), Fit(PRESETS[up])


@pytest.mark.parametrize("name", ["micro", "tiny", "demo"])
def test_every_tensor_is_accounted_for(name):
    below, up = stages(name, f"{name}-up")
    report = init_from_stage1(up, below.state_dict(), below.config)
    assert set(report.copied) | set(report.transformed) == set(below.state_dict())
    assert set(report.transformed) == {"stem.weight", "space_pos", "latents"}
    assert all(tensor.startswith("aug.") for tensor in report.new)
    named = [*report.copied, *report.transformed, *report.new]
    assert sorted(named) == sorted(up.state_dict())


def test_blocks_are_bit_identical():
    below, up = stages()
    init_from_stage1(up, below.state_dict(), below.config)
    lower, upper = below.blocks.state_dict(), up.blocks.state_dict()
    assert all(torch.equal(upper[name], value) for name, value in lower.items())


def test_the_stem_starts_deaf_to_the_lower_clip():
    below, up = stages()
    init_from_stage1(up, below.state_dict(), below.config)
    assert torch.equal(up.stem.weight[:, :48], below.stem.weight)
    assert not up.stem.weight[:, 48:].any()


def test_padding_rows_do_not_reach_the_larger_table():
    below, up = stages()
    with torch.no_grad():
        below.space_pos.unflatten(0, (4, 4))[:] = 1
        below.space_pos.unflatten(0, (4, 4))[3] = 100  # 16 rows inside, 12 of them real
    init_from_stage1(up, below.state_dict(), below.config)
    assert up.space_pos.shape == (48, 64)
    assert torch.equal(up.space_pos, torch.ones_like(up.space_pos))


@pytest.mark.parametrize(
    ("below", "up", "ratio"), [("micro", "micro-up", (1, 2)), ("fit-3.9b", "fit-3.9b-up", (2, 2))]
)
def test_latents_are_dealt_to_the_children_of_their_group(below, up, ratio):
    from train.model.cascade import _dealt_latents

    low, high = PRESETS[below], PRESETS[up]
    numbers = torch.arange(float(low.latents))[:, None]
    dealt = _dealt_latents(numbers, high, low)[:, 0]
    dealt = dealt.unflatten(0, (*high.groups[1:], -1)).int().tolist()
    parents = numbers[:, 0].unflatten(0, (*low.groups[1:], -1)).int()
    each = low.latents // high.num_groups
    for row, line in enumerate(dealt):
        for column, held in enumerate(line):
            parent = parents[row // ratio[0], column // ratio[1]]
            part = ratio[1] * (row % ratio[0]) + column % ratio[1]
            assert held == parent[part * each : (part + 1) * each].tolist()


def test_another_shape_is_refused_by_name():
    below, up = stages("tiny", "micro-up")
    with pytest.raises(ValueError, match=r"stage 1's .* does not fit"):
        init_from_stage1(up, below.state_dict(), PRESETS["tiny"])


@pytest.mark.parametrize("group", [(2, 3, 2), (4, 6, 1)])
def test_groups_that_are_not_those_below_divided_are_refused_with_both(group):
    below = Fit(PRESETS["micro"])
    up = Fit(replace(PRESETS["micro-up"], group=group))
    words = re.escape(f"{up.config.groups} are not those below, {below.config.groups}")
    with pytest.raises(ValueError, match=words):
        init_from_stage1(up, below.state_dict(), below.config)


@pytest.mark.parametrize("kind", ["full", "group"])
def test_other_tables_than_factorized_are_refused_by_name(kind):
    below = Fit(replace(PRESETS["micro"], patch_pos=kind))
    up = Fit(replace(PRESETS["micro-up"], patch_pos=kind))
    with pytest.raises(ValueError, match=f"patch_pos is {kind} below"):
        init_from_stage1(up, below.state_dict(), below.config)
