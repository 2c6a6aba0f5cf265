"""`snapvideo dataset` as it is called: actions, flags, JSON, exit codes."""

import json
from pathlib import Path

import pytest

from infra.store import release
from pipelines import cli
from pipelines.datasets.actions import ACTIONS
from tests.pipelines.datasets.corpora import name


@pytest.fixture
def call(capsys):
    def called(*words):
        capsys.readouterr()  # what the S3 server said when it was started
        try:
            code = cli.main(["dataset", *words])
        except SystemExit as stop:
            code = int(str(stop.code))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return called


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_explains_its_own_flags_with_examples(call, name):
    code, text, _ = call(name, "--help")
    assert code == 0
    assert f"snapvideo dataset {name}" in text.splitlines()[0]
    for key in ACTIONS[name].keys:
        assert f"\n  --{key.rstrip('_').replace('_', '-')} " in text
    for example in ACTIONS[name].examples:
        assert f"snapvideo {example}" in text


def test_a_flag_of_another_action_is_refused_by_name(call, local):
    code, _, text = call("show", "--root", local.root, "--shard-mib", "3")
    assert code == 2
    assert "does not read --shard-mib; it reads --root, --json" in text


def test_a_mistyped_action_is_named_with_the_nearest(call):
    code, _, text = call("vacum")
    assert code == 2
    assert "unknown action 'vacum'; did you mean 'vacuum'?" in text


def test_words_too_many_are_refused(call, local):
    code, _, text = call("diff", "first", "--root", local.root)
    assert code == 2
    assert "snapvideo dataset diff A B" in text


@pytest.mark.parametrize("words", [["show"], ["history"], ["verify"], ["diff", "first", "now"]])
def test_the_same_facts_come_as_json(call, corpus, words):
    code, text, _ = call(*words, "--root", corpus.root, "--json")
    assert code == 0
    assert json.loads(text)["root"] == corpus.root


def test_a_root_without_a_dataset_is_refused(call, tmp_path):
    code, _, text = call("show", "--root", str(tmp_path / "nothing"))
    assert code == 1
    assert "no dataset lies here" in text


def test_faults_give_exit_code_1(call, local):
    local.append("captions", [{"clip_id": "nobody", "caption_id": "c", "text": "t"}])
    code, text, _ = call("verify", "--root", local.root)
    assert code == 1
    assert "unknown_clip: 1" in text


def test_thresholds_and_partitions_decide_what_counts(call, local):
    root = ("--root", local.root)
    code, text, _ = call("release", "part", *root, "--refresh.partitions", "part1", "--json")
    assert (code, json.loads(text)["num_clips"]) == (0, 4)
    code, _, text = call("release", "wide", *root, "--filter.min-side-px", "100")
    assert code == 1
    assert "no captioned clip matches" in text
    code, text, _ = call("release", "calm", *root, "--filter.max-motion", "0.2", "--json")
    assert (code, json.loads(text)["num_clips"]) == (0, 2)  # motion 0, and the image


@pytest.mark.parametrize(
    "row",
    [
        {"status": "vanished"},
        {"status": "ok", "source_id": "f" * 64, "transform_id": "t"},
        {"status": "ok", "source_id": name("source 1"), "transform_id": "cut otherwise"},
    ],
    ids=["vanished", "changed", "cut otherwise"],
)
def test_clips_that_a_source_no_longer_gives_are_not_released(call, local, row):
    uri = "/videos/part0/source 1.mp4"
    local.append("sources", [{"source_uri": uri, "source_root": "/videos"} | row])
    code, text, _ = call("release", "second", "--root", local.root, "--json")
    assert (code, json.loads(text)["num_clips"]) == (0, 6)
    assert release.load(local.root, "first").clips().num_rows == 8


def test_a_selection_of_before_keeps_its_digest(local):
    found = release.load(local.root, "first")
    assert release.digest_of(found)[0] == found.digest
    assert (
        "present"
        not in json.loads(Path(local.root, "releases", "first.json").read_text())["selection"]
    )
