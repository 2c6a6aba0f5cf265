"""Releases: pinned, exclusive, and the same content gives the same digest."""

import pytest

from infra.errors import ConfigError, DataError
from infra.store import release
from infra.store.dataset import Dataset
from infra.store.selection import Bound, Selection
from infra.store.texts import text_hash


def clip(name, **over):
    return {
        "clip_id": name,
        "kind": "video",
        "num_frames": 12,
        "media_sha256": f"bytes of {name}",
        "split_bucket": 500,
        "transform_id": "t",
    } | over


def caption(name, text, origin="human", **over):
    return {"clip_id": name, "text": text, "origin": origin, "status": "ok"} | over


@pytest.fixture
def dataset(tmp_path):
    dataset = Dataset.open(str(tmp_path / "data"), create=True)
    rows = [clip("b"), clip("a", split_bucket=10), clip("still", kind="image", num_frames=1)]
    dataset.append("clips", [*rows, clip("short", num_frames=2), clip("uncaptioned")])
    texts = [caption("a", "old words", "synthetic"), caption("b", "a blue square")]
    dataset.append("captions", [*texts, caption("still", "a still"), caption("short", "brief")])
    dataset.append("captions", [caption("a", "new words", "synthetic")])
    return dataset


def test_a_release_holds_the_captioned_clips_that_the_selection_takes(dataset):
    made = release.create(dataset, "first", Selection(min_frames=4))
    assert made.clips()["clip_id"].to_pylist() == ["a", "b", "still"]
    assert made.num_clips == 3
    assert made.clips("test")["clip_id"].to_pylist() == ["a"]
    assert made.clips("train")["clip_id"].to_pylist() == ["b", "still"]


def test_the_newest_synthetic_caption_is_taken_and_a_human_one_before_it(dataset):
    dataset.append("captions", [caption("b", "made up", "synthetic")])
    rows = release.create(dataset, "r", Selection()).captions().to_pylist()
    texts = {row["clip_id"]: row["text"] for row in rows}
    assert texts["a"] == "new words"
    assert texts["b"] == "a blue square"
    assert rows[0]["text_hash"] == text_hash("new words")


def test_a_release_does_not_see_what_came_later(dataset):
    made = release.create(dataset, "r", Selection())
    dataset.append("clips", [clip("later")])
    dataset.append("captions", [caption("later", "later"), caption("a", "other words")])
    again = release.load(dataset.root, "r")
    assert again == made
    assert "later" not in again.clips()["clip_id"].to_pylist()
    assert "other words" not in again.captions()["text"].to_pylist()


def test_creating_the_same_release_twice_is_one_release(dataset):
    made = release.create(dataset, "r", Selection())
    dataset.append("scores", [{"clip_id": "a", "scorer": "s", "value": 1.0}])
    assert release.create(dataset, "r", Selection()) == made
    assert release.names(dataset.root) == ["r"]


def test_a_name_is_never_given_to_other_content(dataset):
    release.create(dataset, "r", Selection())
    dataset.append("captions", [caption("uncaptioned", "words")])
    with pytest.raises(DataError, match=r"release r: exists.*choose another name"):
        release.create(dataset, "r", Selection())


def test_the_digest_depends_on_content_and_not_on_the_number_of_commits(tmp_path):
    digests = []
    for name, batches in {"one": [["a", "b"]], "two": [["b"], ["a"]]}.items():
        dataset = Dataset.open(str(tmp_path / name), create=True)
        for batch in batches:
            dataset.append("clips", [clip(item) for item in batch])
            dataset.append("captions", [caption(item, "words") for item in batch])
        digests.append(release.create(dataset, "r", Selection()).digest)
    assert digests[0] == digests[1]


def test_an_empty_selection_is_refused(dataset):
    with pytest.raises(DataError, match="no captioned clip matches"):
        release.create(dataset, "r", Selection(min_frames=99, kinds=("video",)))


@pytest.mark.parametrize("name", ["", "../up", "a/b", " "])
def test_a_malformed_name_is_refused(dataset, name):
    with pytest.raises(ConfigError, match="release name"):
        release.create(dataset, name, Selection())
    with pytest.raises(ConfigError, match="release name"):
        release.load(dataset.root, name)


def test_an_unknown_release_is_refused_with_the_known_ones(dataset):
    release.create(dataset, "known", Selection())
    with pytest.raises(DataError, match=r"no such release; there are: known"):
        release.load(dataset.root, "unknown")


def test_a_selection_by_transform_takes_only_its_clips(dataset):
    dataset.append("clips", [clip("mine"), clip("other", transform_id="u")])
    dataset.append("captions", [caption("mine", "one"), caption("other", "two")])
    made = release.create(dataset, "r", Selection(transform_id="u"))
    assert made.clips()["clip_id"].to_pylist() == ["other"]


def test_rows_stream_in_order_with_what_was_asked_for(dataset):
    made = release.create(dataset, "r", Selection())
    with made.rows(["clip_id", "text", "split"], split="train") as found:
        rows = found.read_all().to_pylist()
    assert rows == [
        {"clip_id": "b", "text": "a blue square", "split": "train"},
        {"clip_id": "short", "text": "brief", "split": "train"},
        {"clip_id": "still", "text": "a still", "split": "train"},
    ]


def test_texts_come_once_and_sorted(dataset):
    dataset.append("captions", [caption("uncaptioned", "a still")])
    made = release.create(dataset, "r", Selection())
    for split, expected in (
        ("train", ["a blue square", "a still", "brief"]),
        ("test", ["new words"]),
        (None, ["a blue square", "a still", "brief", "new words"]),
    ):
        with made.texts(split) as found:
            assert found.read_all()["text"].to_pylist() == expected


def test_bounds_without_end_come_back_from_the_file(dataset):
    dataset.append("scores", [{"clip_id": "b", "scorer": "s", "version": "1", "value": 0.5}])
    bounds = (Bound(scorer="s", version="1", least=0.4),)
    made = release.create(dataset, "r", Selection(bounds=bounds))
    assert made.clips()["clip_id"].to_pylist() == ["b"]
    assert release.load(dataset.root, "r").selection.bounds == bounds


def test_newer_captions_of_another_recipe_are_not_taken_where_recipes_are_named(dataset):
    for recipe, text in (("mine", "by mine"), ("tried", "by another")):
        rows = [caption(name, text, "synthetic", recipe_id=recipe) for name in ("uncaptioned", "b")]
        dataset.append("captions", rows)
    named = release.create(dataset, "named", Selection(recipe_ids=("mine",))).captions().to_pylist()
    texts = {row["clip_id"]: row["text"] for row in named}
    assert (texts["uncaptioned"], texts["b"]) == ("by mine", "a blue square")
    assert "a" not in texts  # its captions are of no recipe that is named
    newest = release.create(dataset, "any", Selection()).captions().to_pylist()
    assert {row["clip_id"]: row["text"] for row in newest}["uncaptioned"] == "by another"
