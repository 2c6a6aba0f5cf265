"""Videos to captions to training to an MP4 over HTTP, as a user runs it, and killed on the way."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import openai
import pytest

from infra import video
from pipelines import corpus
from train import bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "pipelines/configs/smoke.yaml"


@dataclass(frozen=True)
class Finished:
    """A run that was killed once in the middle of training, and its second attempt."""

    folder: Path
    log_before: str
    log_after: str

    @property
    def numbers(self) -> dict:
        return json.loads((self.folder / "report.json").read_text())


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *words]


def finish(*words: str) -> str:
    """Run a command to its end and return what it said."""
    done = subprocess.run(
        command(*words), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def kill_when(pattern: str, log: Path, *words: str) -> str:
    """Start a command, kill -9 it as soon as its output matches, and return that output."""
    with log.open("w") as file:
        process = subprocess.Popen(command(*words), cwd=ROOT, stdout=file, stderr=file)
        deadline = time.monotonic() + 500
        while not re.search(pattern, log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return log.read_text()


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--config", str(CONFIG), "--output", str(tmp_path_factory.mktemp("runs"))]


@pytest.fixture(scope="module")
def run(flags: list[str]) -> Finished:
    folder = Path(flags[-1])
    pattern = r"stage1-\w+ step=(1\d|2\d|3\d)/40"
    before = kill_when(pattern, folder / "killed.log", "demo", *flags)
    return Finished(folder / "smoke", before, finish("demo", *flags))


def test_the_second_attempt_repeats_no_finished_stage_and_resumes_training(run):
    for stage in (
        "corpus",
        "ingest",
        "score",
        "filter",
        "captioner",
        "caption",
        "encoder",
        "embed",
        "release",
    ):
        assert f"{stage}: fresh" in run.log_after
    assert "step=40/40" not in run.log_before
    assert "step=5/40" in run.log_before
    assert "step=5/40" not in run.log_after  # it goes on from a checkpoint
    assert "step=40/40" in run.log_after


def test_the_report_says_what_every_stage_took(run):
    assert set(run.numbers["seconds"]) == {
        "corpus", "ingest", "score", "filter", "captioner", "caption", "encoder", "embed",
        "release", "stage1", "stage2", "samples",
    }  # fmt: skip
    page = (run.folder / "report.html").read_text()
    assert "<video" in page
    assert not re.search(r"(src|href)=.https?:", page)  # nothing is loaded from outside


def test_quarantine_holds_every_broken_file_and_no_other(run):
    truth = corpus.read_truth(str(next(run.folder.glob("flow/corpus/all/*/truth.json"))))
    refused = [one for one in truth if one.kind == "refused"]
    assert refused
    reasons = run.numbers["quarantine"]
    unread = [one for one in truth if one.fault and one.kind != "refused"]
    assert sum(reasons.values()) == len(refused) + len(unread)


def test_the_judge_is_right_on_real_clips(run):
    accuracy = run.numbers["detector"]["accuracy"]
    assert accuracy["colour"] >= 0.98
    assert accuracy["direction"] >= 0.98


def test_every_prompt_became_a_video_of_the_right_shape(run):
    videos = sorted(run.folder.glob("flow/samples/all/*/*.mp4"))
    assert len(videos) == run.numbers["samples"]["num"]["colour"] == 48
    assert video.decode(videos[0].read_bytes()).frames.shape == (4, 24, 32, 3)


def test_both_stages_are_registered_with_their_whole_provenance(run):
    client = mlflow.MlflowClient(f"sqlite:///{run.folder}/mlflow.db")
    for name in ("snapvideo-stage1", "snapvideo-stage2"):
        versions = client.search_model_versions(f"name = '{name}'")
        assert len(versions) == 1  # the killed attempt left no second one
        provenance = bundle.read_config(str(versions[0].source))["provenance"]
        assert provenance["config"]["name"] == "smoke"
        assert provenance["release_digest"] == run.numbers["provenance"]["release digest"]
        assert {"code_version", "packages", "seed"} <= set(provenance)
        assert versions[0].tags["release_digest"] == provenance["release_digest"]
        artifacts = {one.path for one in client.list_artifacts(str(versions[0].run_id))}
        assert {"config.yaml", "provenance.json"} <= artifacts
        losses = client.get_metric_history(str(versions[0].run_id), "loss")
        assert len(losses) == len({one.step for one in losses}) > 1


def test_stage_2_begins_where_stage_1_ended(run):
    (stage2,) = run.folder.glob("flow/stage2/all/*/checkpoint/config.json")
    (stage1,) = run.folder.glob("flow/stage1/all/*/checkpoint/config.json")
    assert json.loads(stage2.read_text())["provenance"]["init_bundle"] == str(stage1.parent)


def test_a_third_run_has_nothing_to_do(run, flags):
    log = finish("demo", *flags)
    assert log.count(": fresh") == 13
    assert "done in" not in log


def test_sample_makes_a_video_without_a_server(run, flags, tmp_path):
    words = ["a large red circle moves left slowly over a plain charcoal background"]
    out = finish("sample", *words, *flags, "--out", str(tmp_path))
    assert str(tmp_path / "0000.mp4") in out
    assert video.decode((tmp_path / "0000.mp4").read_bytes()).frames.shape == (4, 24, 32, 3)


def test_dataset_verify_finds_every_byte_in_place(run, flags):
    assert "clips" in finish("dataset", "verify", *flags)


def test_run_on_a_folder_of_ones_own_asks_for_captions_it_never_trained_on(run, flags):
    source = next(run.folder.glob("flow/corpus/all/*/source"))
    log = finish("run", *flags, "--source", str(source), "--samples.num_prompts", "3")
    for stage in ("ingest", "caption", "stage1", "stage2"):
        assert f"{stage}: fresh" in log, log  # the same files and settings
    assert "asked for videos=3" in log
    assert "accuracy" not in json.dumps(run.numbers.get("samples", {}))  # no truth, no verdict


@pytest.fixture
def server(run: Finished, flags: list[str]) -> Iterator[int]:
    """`snapvideo serve` on a free port, ended as Ctrl-C ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        command("serve", *flags, "--serve.port", str(port)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # a shell that starts the tests in the background has them, and so us, ignore Ctrl-C
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "serving" in process.stdout.readline()
    yield port
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (0, 130)


def test_the_stock_client_gets_a_video_from_snapvideo_serve(server, tmp_path):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server}/v1", api_key="none")
    job = client.videos.create(prompt="a small blue square rests", extra_body={"seed": 7})
    done = client.videos.poll(job.id)
    assert done.status == "completed"
    data = client.videos.download_content(done.id).read()
    assert video.decode(data).frames.shape == (4, 24, 32, 3)
    with socket.socket() as other:  # another interface than loopback is not listened on
        other.settimeout(2)
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            assert other.connect_ex((address, server)) != 0
