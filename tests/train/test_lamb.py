"""LAMB under every ZeRO wrapper equals LAMB on whole parameters, and a naive one does not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train import toy
from train.lamb import LambSettings, treatments
from train.model.fit import Fit
from train.model.presets import PRESETS

ROOT = Path(__file__).parents[2]
BOUND = 5e-6  # fp32 rounding over 12 steps, relative to how far a parameter moved

EXACT = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero2_clipped": {"stage": 2, "clip": 1.0},
    "zero2_round_robin": {
        "stage": 2,
        "extra": {"zero_optimization": {"round_robin_gradients": True}},
    },
    "zero2_offloaded": {
        "stage": 2,
        "extra": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
    },
    "zero3_small_groups": {
        "stage": 3,
        "extra": {"zero_optimization": {"sub_group_size": 60}},
    },
    "zero0_bf16": {"stage": 0, "extra": {"bf16": {"enabled": True}}},
    "zero2_bf16": {"stage": 2, "extra": {"bf16": {"enabled": True}}},
    "zero3_bf16": {"stage": 3, "extra": {"bf16": {"enabled": True}}},
    "zero1_bf16_fp32_sums": {
        "stage": 1,
        "extra": {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    },
    "zero0_nan": {"stage": 0, "nan_at": 7},
    "zero2_nan": {"stage": 2, "nan_at": 7},
}
TAMPERED = {
    "offsets_moved": {"stage": 2, "tamper": "offsets"},
    "order_reversed": {"stage": 2, "tamper": "order"},
    "values_changed": {"stage": 2, "tamper": "values"},
}


def launch(world_size: int, cases: list[dict], out: Path) -> None:
    """Run every case in `world_size` processes; the first failing rank's log is shown."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (out / f"cases{world_size}.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.train.ranks", out / f"cases{world_size}.json", out]
    base = os.environ | {"WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    ranks, logs = [], [out / f"log{world_size}-{rank}" for rank in range(world_size)]
    for rank, log in enumerate(logs):
        env = base | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("wb") as sink:
            ranks.append(subprocess.Popen(command, env=env, cwd=ROOT, stdout=sink, stderr=sink))
    for process, log in zip(ranks, logs, strict=True):
        try:
            assert process.wait(240) == 0, log.read_text()[-4000:]
        except BaseException:
            for other in ranks:
                other.kill()
            raise


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Every case at two ranks, then the ones that resume at one rank what two have saved."""
    out = tmp_path_factory.mktemp("zero")
    cases = [{"name": name} | case for name, case in (EXACT | TAMPERED).items()]
    cases += [{"name": "naive", "stage": 2, "naive": True}]
    cases += [{"name": f"half{s}", "stage": s, "steps": 6} for s in (2, 3)]
    cases += [
        {"name": "same_size", "stage": 2, "load": str(out / "half2-state")},
        {"name": "other_stage", "stage": 3, "load": str(out / "half2-state")},
    ]
    launch(2, cases, out)
    resized = [
        {"name": "alone2", "stage": 2},
        {"name": "shrunk", "stage": 2, "load": str(out / "half2-state")},
        {"name": "shrunk_to_stage_0", "stage": 0, "load": str(out / "half3-state")},
    ]
    launch(1, resized, out)
    return out


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
