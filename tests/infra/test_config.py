from typing import Literal

import pytest
from pydantic import PositiveInt

from infra import config
from infra.config import Settings
from infra.errors import ConfigError


class Optim(Settings):
    """Section."""

    lr: float = 1.0
    """Rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    kind: Literal["lamb", "adam"] = "lamb"


class Tree(Settings):
    """Root."""

    optim: Optim = Optim()
    steps: PositiveInt = 10
    fast: bool = False


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("optim: {lr: 2.0}\nsteps: 20\n")
    tree = config.load(Tree, ["--config", str(path), "--steps", "30", "--fast", "true"])
    assert (tree.optim.lr, tree.steps, tree.optim.betas, tree.fast) == (2.0, 30, (0.9, 0.99), True)


def test_a_mistyped_key_in_a_file_names_the_nearest(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("optim: {beta: [1, 2]}\nstep: 3\n")
    with pytest.raises(ConfigError) as fault:
        config.load(Tree, ["--config", str(path)])
    assert f"{path}: unknown key 'optim.beta'; did you mean 'betas'?" in str(fault.value)
    assert "unknown key 'step'; did you mean 'steps'?" in str(fault.value)


def test_a_mistyped_flag_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        config.load(Tree, ["--optim.lrs", "3"])
    assert stop.value.code == 2
    assert "--optim.lr" in capsys.readouterr().err


def test_a_bad_value_names_key_value_and_rule(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("steps: -1\n")
    with pytest.raises(ConfigError, match=r"steps: .*greater than 0, got -1"):
        config.load(Tree, ["--config", str(path)])


@pytest.mark.parametrize("text", ["- a\n", "a: [", "\x00"])
def test_a_file_that_is_not_settings_is_refused(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        config.load(Tree, ["--config", str(path)])


def test_a_missing_file_is_refused():
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(Tree, ["--config", "/nowhere.yaml"])


def test_settings_survive_yaml():
    tree = Tree(optim=Optim(lr=0.1, kind="adam"), steps=3)
    assert config.from_text(Tree, config.to_yaml(tree), "here") == tree
