"""LAMB under every ZeRO wrapper equals LAMB on whole parameters, and a naive one does not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train import toy
from tests.train.zero_cases import EXACT, TAMPERED
from train.lamb import LambSettings, treatments
from train.model.fit import Fit
from train.model.presets import PRESETS

BOUND = 5e-6  # fp32 rounding over 12 steps, relative to how far a parameter moved


def displacement_error(got: dict, want: dict, kind: str) -> float:
    """Return the worst distance from the reference, relative to how far that parameter moved."""
    worst = 0.0
    for name, start in toy.Toy().double().named_parameters():
        if start.requires_grad:
            moved = (want[f"weight|{name}"] - start.detach()).norm()
            error = (got[f"{kind}|{name}"].double() - want[f"{kind}|{name}"]).norm() / moved
            worst = max(worst, error.item())
    return worst


def read(trained: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(trained / f"{name}.safetensors")


@pytest.mark.parametrize("name", EXACT)
def test_weights_average_and_ratios_equal_lamb_on_whole_parameters(trained, name):
    case = EXACT[name]
    want = toy.reference(case.get("clip", 0.0), case.get("nan_at"))
    got = read(trained, name)
    assert displacement_error(got, want, "weight") < BOUND
    assert displacement_error(got, want, "ema") < BOUND


def test_trust_ratios_are_those_of_whole_parameters(trained):
    got, want = read(trained, "zero2"), toy.reference()
    for key in (k for k in want if k.startswith("ratio|")):
        assert got[key].item() == pytest.approx(want[key].item(), rel=1e-5), key


def test_lamb_on_flat_partitions_fails_the_same_bound_by_far(trained):
    assert displacement_error(read(trained, "naive"), toy.reference(), "weight") > 1e4 * BOUND


@pytest.mark.parametrize("name", TAMPERED)
def test_a_layout_that_is_not_as_stated_is_refused(trained, name):
    assert read(trained, name)["refused"].item() == 1.0


@pytest.mark.parametrize("name", ["same_size", "other_stage", "shrunk", "shrunk_to_stage_0"])
def test_a_resumed_run_equals_an_unbroken_one(trained, name):
    assert displacement_error(read(trained, name), toy.reference(), "weight") < BOUND
    assert displacement_error(read(trained, name), toy.reference(), "ema") < BOUND


def test_a_restart_at_the_same_size_is_bit_identical(trained):
    whole, resumed = read(trained, "zero2"), read(trained, "same_size")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_every_parameter_of_the_network_is_treated_as_its_kind():
    how = treatments(Fit(PRESETS["micro"]), LambSettings())
    exempt = {n for n, t in how.items() if not t.trust}
    tables = {n for n, t in how.items() if t.trust and not t.decay}
    assert exempt
    assert tables
    assert all(n.endswith((".weight", ".bias", ".gain", ".frequencies")) for n in exempt), exempt
    assert not any(n.endswith(".weight") for n in tables), tables
