"""The end of a run: lines that a user copies must do what they say."""

import shlex
from pathlib import Path

from infra.config import load
from infra.tracking import TrackingSettings
from pipelines.config import RunConfig
from pipelines.demo import say_where
from pipelines.runtime import Runtime


def last_lines(capsys, config: RunConfig) -> dict[str, list[str]]:
    """Return what each line offers, split as a shell splits it."""
    say_where(config, Runtime(config.workspace, config, "test"))
    pairs = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    return {name: shlex.split(rest) for name, rest in pairs if name in ("MLflow", "serve")}


def test_the_serve_line_finds_the_run_again(capsys, tmp_path):
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/my db.sqlite")
    config = RunConfig(name="mine", output=str(tmp_path / "a \u00fc #1"), tracking=tracking)
    _, command, *flags = last_lines(capsys, config)["serve"]
    found = load(RunConfig, flags)
    assert command == "serve"
    assert (found.workspace, found.mlflow_uri) == (config.workspace, config.mlflow_uri)


def test_programs_outside_of_the_path_are_given_with_their_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    lines = last_lines(capsys, RunConfig(output=str(tmp_path)))
    for words in lines.values():
        assert Path(words[0]).is_file()
