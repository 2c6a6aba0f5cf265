"""The benchmarks run and print what they promise; how fast anything is, no test says."""

import contextlib
import io
import re

import pytest
import torch

from infra.bench import fit_vs_unet, timing, token_growth
from train.model.presets import PRESETS

CPU = torch.device("cpu")


def lines_of(benchmark, *words):
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        benchmark.main(["--quick", "--rounds", "1", *words])
    return screen.getvalue().splitlines()


@pytest.fixture(scope="module")
def compared():
    return lines_of(fit_vs_unet, "--device", "cpu", "--precision", "bf16")


@pytest.fixture(scope="module")
def grown():
    return lines_of(token_growth)


def test_both_steps_are_compared_with_the_paper(compared):
    found = [
        re.fullmatch(r"bf16 (.*): FIT is [\d.]+x as .* the paper ([\d.]+)x\)", line)
        for line in compared
    ]
    steps = [each.groups() for each in found if each]
    assert steps == [("training step", "3.31"), ("sampling step", "4.49")]


def test_the_comparison_comes_last(compared):
    assert all("FIT is" in line for line in compared[-2:])


def test_every_step_shows_its_share_of_the_matrix_product(compared):
    row = re.compile(r"(micro|unet-micro) (training|sampling) step +[\d.]+ .*%.* GiB")
    assert sum(bool(row.match(line)) for line in compared) == 2 * 2


def test_growing_clips_keep_latents_and_groups():
    for scale in token_growth.SCALES:
        shape = token_growth.grown(token_growth._SMALL, scale)
        assert (shape.latents, shape.num_groups) == (64, 4)
        assert token_growth.num_tokens(shape) == 1024 * scale**2


def test_growth_ends_with_the_ratio_of_the_growths(grown):
    pattern = r"16x the tokens: FIT takes [\d.]+x the time, .* [\d.]+x; ratio [\d.]+"
    assert re.fullmatch(pattern, grown[-1])


def test_attention_over_all_tokens_grows_with_their_square_and_fit_does_not(grown):
    lines = [line for line in grown if "x16: FLOPs" in line]
    fit, plain = (float(re.search(r"x16: FLOPs x([\d.]+)", line)[1]) for line in lines)
    assert fit < 16 < plain


def test_cases_take_turns_and_warm_up():
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.interleaved(cases, 2, CPU)
    assert "".join(calls) == "ababab"
    assert [len(each.seconds) for each in times.values()] == [2, 2]


def test_the_median_is_the_middle_time():
    assert timing.Times((9.0, 1.0, 2.0)).median == 2.0


def test_a_training_step_of_both_networks_counts_what_it_computes():
    fit, unet = (fit_vs_unet.costs(name, torch.float32, 1, 8) for name in fit_vs_unet.PAIRS[True])
    assert unet["training step"].flops * 2 == pytest.approx(
        unet["sampling step"].flops * 3, rel=0.02
    )
    assert fit["training step"].flops == pytest.approx(2 * fit["sampling step"].flops, rel=0.05)


def test_the_pair_is_the_papers():
    first, second = (PRESETS[name] for name in fit_vs_unet.PAIRS[False])
    assert first.clip_shape == second.clip_shape == (3, 16, 36, 64)
