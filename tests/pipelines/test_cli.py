"""The command line as a user meets it: exit codes, and messages that name the way out."""

import json
import socket
from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipelines import cli, commands
from pipelines.config import RunConfig


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and everything that was printed."""
    try:
        code = cli.main(list(words))
    except SystemExit as stop:
        code = int(str(stop.code))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def out(tmp_path: Path) -> list[str]:
    """Flags that keep a run's files in a temporary folder."""
    return ["--output", str(tmp_path / "runs"), "--cluster.dashboard", "false"]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A source folder with one file in it; nothing here gets so far as to read it."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "one.mp4").write_bytes(b"")
    return folder


def test_help_lists_every_command(capsys):
    code, text = run(capsys, "--help")
    assert code == 0
    for name in cli.COMMANDS:
        assert f"\n  {name} " in text


WHOLE_TREE = [name for name, command in cli.COMMANDS.items() if not command.sections]
OWN_FLAGS = [name for name, command in cli.COMMANDS.items() if command.sections]


@pytest.mark.parametrize("name", WHOLE_TREE)
def test_every_command_explains_its_settings(capsys, name):
    code, text = run(capsys, name, "--help")
    assert code == 0
    assert "--stage1.optimizer.lr" in text


@pytest.mark.parametrize("name", OWN_FLAGS)
def test_a_command_with_short_flags_explains_those_and_no_others(capsys, name):
    code, text = run(capsys, name, "--help")
    assert code == 0
    for section in cli.COMMANDS[name].sections:
        for key in type(getattr(RunConfig(), section)).model_fields:
            assert f"\n  --{key.rstrip('_').replace('_', '-')} " in text
    assert "--stage1.optimizer.lr" not in text


def test_a_mistyped_command_is_named_with_the_nearest(capsys):
    code, text = run(capsys, "ingset")
    assert code == 2
    assert "unknown command 'ingset'; did you mean 'ingest'?" in text


def test_a_mistyped_flag_is_named_with_the_nearest(capsys):
    code, text = run(capsys, "run", "--stage1.stepz", "3")
    assert code == 2
    assert "--stage1.steps" in text
    assert "Traceback" not in text


def test_a_mistyped_short_flag_is_named_with_the_nearest(capsys):
    code, text = run(capsys, "sample", "a red circle", "--stepz", "3")
    assert code == 2
    assert "unknown flag '--stepz'; did you mean '--steps'?" in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--format", "avi"], "draw.format.0: Input should be 'mp4', 'gif', 'webp' or 'png', got"),
        (["--frames", "0"], "samples.frames: Input should be greater than or equal to 1, got '0'"),
        (["--fps", "fast"], "samples.fps: Input should be a valid number"),
        (["--steps", "--fps", "8"], "--steps needs a value after it: --steps INT"),
    ],
)
def test_a_bad_value_of_a_short_flag_is_refused_by_name(capsys, flags, expected):
    code, text = run(capsys, "sample", "a red circle", *flags)
    assert code == 2
    assert expected in text


def test_a_mistyped_key_in_a_file_is_named_with_the_nearest(capsys, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("stage1: {stepz: 3}\n")
    code, text = run(capsys, "run", str(path))
    assert code == 2
    assert f"{path}: unknown key 'stage1.stepz'; did you mean 'steps'?" in text


def test_a_run_without_a_source_says_how_to_give_one(capsys, out):
    code, text = run(capsys, "run", *out)
    assert code == 2
    assert "--source DIR" in text


def test_a_source_of_an_unknown_scheme_is_refused_with_those_there_are(capsys, out):
    code, text = run(capsys, "ingest", "--source", "ftp://host/a.mp4", *out)
    assert code == 2
    assert "scheme 'ftp' is not known; accepted: a path, file://, s3://, http(s)://" in text


def test_a_folder_that_is_not_there_is_refused(capsys, out, tmp_path):
    code, text = run(capsys, "ingest", "--source", str(tmp_path / "nothing"), *out)
    assert code == 1
    assert "no such folder" in text


@pytest.mark.parametrize("flag", ["--dry-run", "--refresh.dry-run"])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(capsys, out, videos, tmp_path, flag):
    code, text = run(capsys, "ingest", "--source", str(videos), flag, *out)
    assert code == 0
    assert "root" in text
    assert "ingest root: never done" in text
    assert not (tmp_path / "runs").exists()


def test_a_partition_that_the_source_has_not_is_refused(capsys, out, videos):
    flags = ["--source", str(videos), "--partitions", "rot", *out]
    code, text = run(capsys, "ingest", *flags)
    assert code == 2
    assert "refresh.partitions" in text
    assert "root" in text


def test_an_output_that_cannot_be_written_is_named(capsys, videos):
    flags = ["--source", str(videos), "--output", str(videos / "one.mp4")]
    code, text = run(capsys, "ingest", *flags)
    assert code == 2
    assert "choose another --output" in text
    assert "tracking.uri" not in text


def test_an_empty_folder_is_refused(capsys, out, tmp_path):
    (tmp_path / "empty").mkdir()
    code, text = run(capsys, "ingest", "--source", str(tmp_path / "empty"), *out)
    assert code == 1
    assert "the folder is empty" in text


def test_a_folder_without_media_is_refused(capsys, out, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.md").write_text("hello")
    code, text = run(capsys, "ingest", "--source", str(tmp_path / "notes"), *out)
    assert code == 1
    assert "ingest.accept.suffixes" in text


def test_presets_that_are_no_cascade_are_refused_before_work_begins(capsys, out, videos, tmp_path):
    flags = ["--source", str(videos), "--stage1.preset", "unet-micro", *out]
    code, text = run(capsys, "run", *flags)
    assert code == 2
    assert "stage2.preset: stage 1 is 'unet-micro', and U-Nets are first-stage baselines" in text
    assert not (tmp_path / "runs").exists()


def test_a_gpu_that_is_not_there_is_refused_before_work_begins(capsys, out, videos):
    flags = ["--source", str(videos), "--cluster.num_gpus", "64", *out]
    code, text = run(capsys, "ingest", *flags)
    assert code == 2
    assert "cluster.num_gpus: 64 asked for" in text


def test_an_mlflow_server_that_is_silent_is_refused_before_work_begins(capsys, out, videos):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        flags = ["--source", str(videos), "--tracking.uri", uri, *out]
        code, text = run(capsys, "train", "stage1", *flags)
    assert code == 1
    assert "tracking.uri" in text
    assert uri in text


def test_an_ingest_alone_needs_no_mlflow(capsys, out, videos, monkeypatch):
    def reached(_):
        raise ConfigError("the cluster is reached")

    monkeypatch.setattr(commands.cluster, "running", reached)
    nowhere = "http://127.0.0.1:1"
    _, text = run(capsys, "ingest", "--source", str(videos), "--tracking.uri", nowhere, *out)
    assert "the cluster is reached" in text


def test_a_cluster_that_does_not_answer_is_refused(capsys, out, videos):
    flags = ["--source", str(videos), "--cluster.address", "127.0.0.1:9", *out]
    code, text = run(capsys, "ingest", *flags)
    assert code == 1
    assert "cluster.address" in text


def test_a_dataset_of_another_version_is_refused(capsys, out, tmp_path):
    root = tmp_path / "runs/run/dataset"
    root.mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({"format": 99}))
    code, text = run(capsys, "dataset", "show", *out)
    assert code == 1
    assert "format 99" in text
    assert str(root) in text


def test_a_second_command_in_the_same_run_is_refused(capsys, out, videos, tmp_path):
    from pipelines.runlock import run_lock

    with run_lock(str(tmp_path / "runs/run")):
        code, text = run(capsys, "ingest", "--source", str(videos), *out)
    assert code == 2
    assert "another command works in" in text


def test_serving_before_training_says_what_is_missing(capsys, out):
    code, text = run(capsys, "sample", "a red circle", *out)
    assert code in (1, 2)
    assert "snapvideo-stage1" in text
    assert "train" in text


def test_doctor_names_a_taken_port(capsys, out):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, text = run(capsys, "doctor", "--serve.port", port, *out)
    assert code == 1
    assert "set --serve.port to a free port" in text
