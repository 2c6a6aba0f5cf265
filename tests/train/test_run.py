"""Training for real: Ray Train, two gloo workers, DeepSpeed, MLflow, and kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from infra.errors import ConfigError, DataError
from infra.tracking import Tracker, TrackingSettings, connect
from tests.train import little
from train import bundle
from train.config import OptimizerSettings, ReaderSettings, TrainSettings
from train.run import TrainJob, _named, train_stage
from train.text_config import TextSettings

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
ROOT = Path(__file__).parents[2]
SETTINGS = TrainSettings(
    steps=40,
    batch_videos=4,
    batch_images=2,
    optimizer=OptimizerSettings(warmup_steps=2),
    reader=ReaderSettings(framerates=(12.0, 6.0)),
    report_every=4,
    save_every=8,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[Path, str, TextSettings]:
    folder = tmp_path_factory.mktemp("training")
    return folder, *little.make(folder)


@pytest.fixture(scope="module")
def tracker(place) -> Tracker:
    return connect(TrackingSettings(), str(place[0]))


@pytest.fixture(scope="module")
def undisturbed(ray_local, place, tracker):
    return train_stage(job(place, "undisturbed"), tracker)


def job(place, name: str, **changes) -> TrainJob:
    folder, root, text = place
    return TrainJob(**{
        "run_name": name, "stage": 1, "dataset_root": root, "release": "r1",
        "settings": SETTINGS, "text": text, "out_uri": str(folder / name / "model"),
        "storage_uri": str(folder / name / "state"), "provenance": {"made_by": "a test"},
    } | changes)  # fmt: skip


def rows(result) -> list[dict]:
    return [json.loads(line) for line in Path(result.stats_uri).read_text().splitlines()]


def same_weights(first: str, second: str) -> bool:
    for name in ("model", "raw"):
        a, b = (load_file(Path(uri) / f"{name}.safetensors") for uri in (first, second))
        if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a):
            return False
    return True


def test_a_stage_ends_with_a_bundle_that_loads_and_says_where_it_is_from(undisturbed):
    loaded = bundle.load(undisturbed.bundle_uri)
    facts = loaded.config["provenance"]
    assert loaded.model.config.text_width == 16
    assert loaded.edm.sigma_in == pytest.approx(2.0)
    assert facts["release_digest"] == undisturbed.release_digest
    assert facts["made_by"] == "a test"
    assert facts["code_version"]
    assert facts["packages"]["torch"]


def test_numbers_reach_the_file_and_mlflow(undisturbed, tracker):
    assert [row["step"] for row in rows(undisturbed)] == list(range(4, 41, 4))
    assert tracker.last_step(undisturbed.mlflow_run_id, "loss") == 40
    assert rows(undisturbed)[-1]["loss"] == pytest.approx(undisturbed.last_loss)


def test_a_finished_stage_is_exported_again_without_training(undisturbed, place, tracker):
    again = train_stage(job(place, "undisturbed", out_uri=str(place[0] / "again")), tracker)
    assert same_weights(again.bundle_uri, undisturbed.bundle_uri)
    assert rows(again) == rows(undisturbed)


def test_a_worker_killed_in_the_middle_changes_nothing(undisturbed, place, tracker):
    stats = place[0] / "worker-killed" / "state" / "stats.jsonl"
    killer = subprocess.Popen([sys.executable, "-c", KILLER, stats, "12", str(os.getpid())])
    result = train_stage(job(place, "worker-killed"), tracker)
    assert killer.wait(60) == 0, "no worker was killed"
    assert same_weights(result.bundle_uri, undisturbed.bundle_uri)


KILLER = textwrap.dedent("""
    import os, pathlib, psutil, signal, sys, time
    stats, step = pathlib.Path(sys.argv[1]), sys.argv[2]
    def workers():
        for process in psutil.Process(int(sys.argv[3])).children(recursive=True):
            try:
                if "ray::RayTrainWorker" in "".join(process.cmdline()[:1]):
                    yield process.pid
            except psutil.NoSuchProcess:
                pass
    found = []  # looked for before they are needed: on a busy machine that takes a while
    while not (found and stats.exists() and f'"step": {step},' in stats.read_text()):
        found = found or list(workers())
        time.sleep(0.01)
    os.kill(found[0], signal.SIGKILL)
""")


def test_a_driver_killed_in_the_middle_resumes_to_the_same_result(undisturbed, place, tracker):
    command = [sys.executable, "-m", "tests.train.driver", *map(str, place[:2]), place[2].model]
    driver = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    state = place[0] / "driver-killed" / "state" / "driver-killed"
    deadline = time.monotonic() + 400
    while not list(state.glob("checkpoint_2*")) and time.monotonic() < deadline:
        assert driver.poll() is None, "the driver ended by itself"
        time.sleep(0.05)
    assert list(state.glob("checkpoint_2*")), "no checkpoint before the deadline"
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        process.kill()
    result = train_stage(job(place, "driver-killed"), tracker)
    assert same_weights(result.bundle_uri, undisturbed.bundle_uri)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_bundle": "x"}, "init_bundle"),
        ({"settings": SETTINGS.model_copy(update={"preset": "micro-up"})}, "is an upsampler"),
        ({"settings": SETTINGS.model_copy(update={"gpus": True})}, "gpus: 2 workers"),
    ],
)
def test_what_cannot_work_is_named_before_workers_start(ray_local, place, tracker, change, message):
    with pytest.raises(ConfigError, match=message):
        train_stage(job(place, "refused", **change), tracker)


def test_a_workers_fault_keeps_its_kind_and_loses_its_traceback(place):
    text = "Traceback\n  File ...\ninfra.errors.DataError: 3 of 9 clips cannot be read\nmore"
    fault = _named(RuntimeError(text), job(place, "stage1-x"))
    assert type(fault) is DataError
    assert str(fault) == "stage1-x: 3 of 9 clips cannot be read"


def test_a_torn_checkpoint_list_is_no_obstacle(undisturbed, place, tracker):
    run = place[0] / "undisturbed" / "state" / "undisturbed"
    whole = (run / "checkpoint_manager_snapshot.json").read_text()
    target = place[0] / "torn" / "state" / "torn"
    shutil.copytree(run, target)
    (target / "checkpoint_manager_snapshot.json").write_text(whole[: len(whole) // 2])
    shutil.rmtree(max(target.glob("checkpoint_2*")))
    result = train_stage(job(place, "torn"), tracker)
    assert same_weights(result.bundle_uri, undisturbed.bundle_uri)


def test_stage_2_starts_from_stage_1(undisturbed, place, tracker):
    settings = SETTINGS.model_copy(update={"preset": "micro-up", "steps": 2})
    changes = {"stage": 2, "settings": settings, "init_bundle": undisturbed.bundle_uri}
    result = train_stage(job(place, "stage2", **changes), tracker)
    config = bundle.read_config(result.bundle_uri)
    assert config["low_res"] == {"height": 12, "width": 16}
    assert config["edm"]["sigma_in"] == pytest.approx(4.0)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="inductor writes C++ and no c++ or g++ is installed")
def test_a_compiled_network_learns_the_same(ray_local, place, tracker):
    plain = SETTINGS.model_copy(update={"dropout": 0.0, "steps": 2, "report_every": 1})
    compiled = plain.model_copy(update={"compile": True})
    first, second = (
        rows(train_stage(job(place, name, settings=settings), tracker))
        for name, settings in (("plain", plain), ("compiled", compiled))
    )
    expected = [row["loss"] for row in first]
    assert [row["loss"] for row in second] == pytest.approx(expected, rel=1e-4)
