"""A preset's description: the specification's figures, and what real training takes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.errors import ConfigError
from tests.train import holdings
from train.describe import (
    Setup,
    describe,
    evaluation,
    parameters_by_part,
    render,
    training_pass,
)
from train.diffusion.guidance import Guidance
from train.footprint import (
    BUCKET_ELEMENTS,
    STAGES,
    WORD,
    Activations,
    training_memory,
)
from train.meter import Meter, pretended
from train.model.networks import build
from train.model.presets import PRESETS

ROOT = Path(__file__).parents[2]
TERA_FLOPS = {
    "fit-500m": 0.703, "fit-3.9b": 6.435, "fit-3.9b-up": 28.52,
    "unet-85m": 0.70, "unet-284m": 1.87,
}  # fmt: skip
MILLIONS_PER_BLOCK = {
    "blocks: context read": 83.9,
    "blocks: read": 83.9,
    "blocks: global layers": 453.1,
    "blocks: write": 16.8,
}


@pytest.fixture(scope="module")
def tiny():
    return describe("tiny", Setup(batch=holdings.BATCH, precision="fp32"))


def pretended_pass(batch, checkpointing=False):
    with pretended():
        network = build(replace(PRESETS["micro"], checkpointing=checkpointing)).train()
        return training_pass("micro", network, Setup(batch=batch))


@pytest.mark.parametrize("preset", TERA_FLOPS)
def test_a_forward_pass_costs_what_the_specification_says(preset):
    with pretended():
        network = build(PRESETS[preset]).eval().requires_grad_(requires_grad=False)
        meter = evaluation(network, Setup(), Guidance(scale=1), known=False)
    assert meter.flops / 1e12 == pytest.approx(TERA_FLOPS[preset], rel=1e-3, abs=5e-3)


def test_the_blocks_of_the_large_fit_have_the_specified_shares():
    with torch.device("meta"):
        parts = parameters_by_part(build(PRESETS["fit-3.9b"]))
    got = {part: parts[part] / 6e6 for part in MILLIONS_PER_BLOCK}
    assert got == pytest.approx(MILLIONS_PER_BLOCK, abs=0.06)


def test_the_meter_counts_attention_as_its_two_products():
    q, k = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8)
    with Meter() as meter:
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert meter.flops == 2 * 3 * (2 * 5 * 7 * 8 + 2 * 5 * 7 * 8)


def test_the_meter_forgets_what_is_freed():
    with Meter() as meter:
        for _ in range(3):
            torch.zeros(256)
    assert (meter.peak_bytes, meter.live_bytes) == (1024, 0)


def test_a_pretended_pass_takes_the_bytes_of_a_real_one(tiny):
    real = training_pass("tiny", build(PRESETS["tiny"]).train(), tiny.setup)
    assert real.peak_bytes_aside == tiny.training[0].activations


def test_a_real_pass_grows_the_process_by_what_is_predicted():
    with pretended():
        setup = Setup(batch=holdings.BATCH, precision="fp32")
        predicted = training_pass("tiny", build(PRESETS["tiny"]).train(), setup).peak_bytes
    env = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "tests.train.holdings"]
    grown = int(subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True).stdout)
    assert grown == pytest.approx(predicted, rel=0.1)


@pytest.mark.slow
def test_real_engines_hold_what_is_predicted_at_every_zero_stage(tmp_path):
    out, workers = tmp_path / "kept.json", 2
    spawn = torch.multiprocessing.start_processes
    spawn(holdings.kept_between_steps, (workers, str(out)), workers, start_method="spawn")
    sizes = [param.numel() for param in build(PRESETS[holdings.PRESET]).parameters()]
    for stage, kept in json.loads(out.read_text()).items():
        row = training_memory(int(stage), sizes, Activations(0, 0), workers, "fp32")
        also = row.gradients + BUCKET_ELEMENTS * WORD if stage == "3" else 0
        assert kept == pytest.approx(row.weights + row.optimizer + also, rel=0.02), stage


def test_checkpointing_costs_a_forward_pass_and_saves_memory():
    plain, again = pretended_pass(8), pretended_pass(8, checkpointing=True)
    assert plain.flops / 4 * 0.7 < again.flops - plain.flops < plain.flops / 4
    assert again.peak_bytes_aside < 0.7 * plain.peak_bytes_aside


def test_a_batch_costs_the_flops_of_its_clips():
    assert pretended_pass(8).flops == 8 * pretended_pass(1).flops


def test_sharding_is_what_workers_save():
    sizes = [200_000] * 5
    one, four = (
        [training_memory(stage, sizes, Activations(0, 0), workers, "fp32") for stage in STAGES]
        for workers in (1, 4)
    )
    assert [b.optimizer / a.optimizer for a, b in zip(one, four, strict=True)] == [
        1,
        0.25,
        0.25,
        0.25,
    ]


def test_every_figure_is_on_the_screen(tiny):
    text = render(tiny)
    for words in ("2,771,648", "global layers", "ZeRO", "with guidance and known frames"):
        assert words in text


def test_an_unknown_preset_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'fit-500m'"):
        describe("fit-500")


@pytest.mark.parametrize("name", ["batch", "workers", "text_tokens"])
def test_none_of_something_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"{name}: 0"):
        Setup(**{name: 0})
