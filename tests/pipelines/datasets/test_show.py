"""Counts, commits and differences, by numbers small enough to count by hand."""

import pytest

from infra.errors import ConfigError, DataError
from infra.store import release
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.datasets.diff import diff
from pipelines.datasets.history import history
from pipelines.datasets.release import pin
from pipelines.datasets.show import show
from tests.pipelines.datasets.corpora import HOSTILE, caption, clip_rows


def test_everything_is_counted(corpus):
    found = show(corpus.root).tree
    assert found["tables"]["clips"]["num_rows"] == 8
    assert found["tables"]["captions"]["num_rows"] == 9
    assert [(one["kind"], one["num"]) for one in found["clips"]] == [("image", 1), ("video", 7)]
    assert [(one["status"], one["num"]) for one in found["sources"]] == [("ok", 4)]
    assert [one["name"] for one in found["partitions"]] == ["part0", "part1"]
    assert [one["num_clips"] for one in found["partitions"]] == [4, 4]
    assert [(one["origin"], one["num"]) for one in found["captions"]] == [
        ("human", 8),
        ("synthetic", 1),
    ]
    (score,) = found["scores"]
    assert (score["num"], score["least"], score["most"]) == (8, 0, 7)
    assert score["quantiles"][2] == pytest.approx(3.5)
    assert [(one["reason"], one["num"]) for one in found["quarantine"]] == [
        ("unreadable", 3),
        ("too_short", 1),
    ]
    assert [one["name"] for one in found["releases"]] == ["first"]


def test_an_empty_dataset_is_shown(tmp_path):
    empty = Dataset.open(str(tmp_path / "empty"), create=True)
    text = show(empty.root).text
    assert "releases\n  none" in text


def test_history_lists_commits_newest_first(corpus):
    corpus.append("scores", [{"clip_id": "x", "scorer": "s", "value": 1.0, "run_id": "r7"}])
    commits = history(corpus.root, (), 50).tree["commits"]
    assert (commits[0]["table"], commits[0]["num_rows_added"]) == ("scores", 1)
    assert commits[0]["num_bytes_added"] > 0
    assert [one["run_ids"] for one in commits[:2]] == [["r7"], []]
    only = history(corpus.root, ("clips",), 1).tree["commits"]
    assert [(one["table"], one["num_rows_added"]) for one in only] == [("clips", 8)]


def test_a_table_that_is_not_there_is_refused(local):
    with pytest.raises(ConfigError, match="no table"):
        history(local.root, ("clip",), 5)


def test_nothing_differs_between_a_release_and_itself(corpus):
    found = diff(corpus.root, "first", "first", 5).tree
    assert (found["clips_kept"], found["clips_added"], found["captions_changed"]) == (8, 0, 0)


def test_added_clips_and_changed_captions_are_told(corpus):
    clips = clip_rows(corpus, first=8, num=2)
    one = corpus.read("clips", columns=["clip_id"]).to_pylist()[3]["clip_id"]
    corpus.append("clips", clips)
    texts = [caption(row["clip_id"], "new clip") for row in clips]
    corpus.append("captions", [*texts, caption(one, "better words")])
    found = diff(corpus.root, "first", "now", 5).tree
    assert (found["clips_added"], found["clips_kept"], found["captions_changed"]) == (2, 8, 1)
    assert (found["sources_added"], found["sources_cut_anew"]) == (1, 0)
    assert [row["new_text"] for row in found["captions"]] == ["better words"]
    back = diff(corpus.root, "now", "first", 5).tree
    assert (back["clips_removed"], back["sources_removed"]) == (2, 1)


def test_a_source_that_is_cut_anew_is_told_apart_from_a_new_one(local):
    first = local.read("clips").to_pylist()[0]
    local.append("clips", [first | {"clip_id": "cut-otherwise", "transform_id": "u"}])
    local.append("captions", [caption("cut-otherwise", "the same source")])
    release.create(local, "second", Selection(transform_id="u"))
    found = diff(local.root, "first", "second", 5).tree
    assert (found["sources_cut_anew"], found["sources_removed"]) == (1, 3)
    assert (found["clips_added"], found["clips_removed"]) == (1, 8)


def test_versions_of_a_table_are_compared(local):
    local.append("captions", [caption(local.read("clips")["clip_id"][0].as_py(), "newest words")])
    found = diff(local.root, "captions@1", "captions@2", 5).tree
    assert found["captions_changed"] == 1
    assert diff(local.root, "clips@0", "now", 5).tree["clips_added"] == 8


@pytest.mark.parametrize(
    ("old", "new", "fault", "message"),
    [
        ("scores@1", "now", ConfigError, "'scores' cannot be compared"),
        ("clips@1", "captions@1", ConfigError, "two versions of one table"),
        ("clips@1", "first", ConfigError, "two versions of one table"),
        ("clips@99", "now", DataError, "99"),
        ("nothing", "now", DataError, "no such release; there are: first"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(local, old, new, fault, message):
    with pytest.raises(fault, match=message):
        diff(local.root, old, new, 5)


def test_hostile_text_does_not_steer_the_terminal(local):
    one = local.read("clips", columns=["clip_id"]).to_pylist()[0]["clip_id"]
    local.append("captions", [caption(one, "\x1b[2Jgone\r\nnew line" + HOSTILE)])
    text = diff(local.root, "first", "now", 5).text
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_release_without_a_name_is_refused(local):
    with pytest.raises(ConfigError, match="a name is needed"):
        pin(local.root, "", Selection())


def test_a_release_is_pinned_with_what_the_selection_takes(local):
    made = pin(local.root, "videos", Selection(kinds=("video",)))
    assert made.tree["num_clips"] == 7
    assert release.load(local.root, "videos").selection.kinds == ("video",)
