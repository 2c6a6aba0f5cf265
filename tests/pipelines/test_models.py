"""`snapvideo model` as a user meets it; the figures themselves are tested with `train.describe`."""

import subprocess
import sys

import pytest

from pipelines import cli
from train.model.presets import PRESETS


@pytest.fixture
def model(capsys):
    """Return a caller of the command that gives its exit code and what it said."""

    def call(*words):
        code = cli.main(["model", *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_every_preset_is_listed_with_its_clips_and_parameters(model):
    code, text = model("list")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(PRESETS)
    [line] = [line for line in text.splitlines() if line.startswith("fit-500m ")]
    assert line.split() == ["fit-500m", "16", "x", "36", "x", "64", "497,934,144"]


def test_a_preset_is_described_for_the_setup_that_is_asked_for(model):
    code, text = model("describe", "micro", "--workers", "2", "--batch", "3", "--precision", "fp32")
    assert code == 0
    assert "453,792" in text
    assert "2 in all, 3 clip(s) each, fp32" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["describe", "fit-400m"], "unknown 'fit-400m'; did you mean 'fit-500m'?"),
        (["describe"], "one preset is needed, got none"),
        (["describe", "micro", "tiny"], "one preset is needed, got 2"),
        (["explain"], "unknown action 'explain'; say model list"),
        (["describe", "micro", "--batch", "0"], "describe.batch: Input should be greater than 0"),
        (["describe", "micro", "--worker", "2"], "did you mean '--workers'?"),
    ],
)
def test_what_it_does_not_know_is_refused_with_a_way_out(model, words, expected):
    code, text = model(*words)
    assert code == 2
    assert expected in text


def test_it_needs_no_cluster():
    program = (
        "import sys; from pipelines import cli; cli.main(['model', 'describe', 'micro']);"
        "sys.exit('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"453,792" in done.stdout
