"""Which clips a selection takes."""

import pytest

from infra.errors import ConfigError
from infra.store.choose import chosen_clips
from infra.store.dataset import Dataset
from infra.store.selection import Bound, Selection


@pytest.fixture
def dataset(tmp_path):
    """Videos c1 to c9 of two sources, as many frames as their number, and an image."""
    dataset = Dataset.open(str(tmp_path / "d"), create=True)
    videos = [
        {"clip_id": f"c{i}", "kind": "video", "num_frames": i, "fps_num": 24, "fps_den": 1,
         "source_id": f"s{i % 2}", "transform_id": "t", "split_bucket": 100 * i}
        for i in range(1, 10)
    ]  # fmt: skip
    image = {"clip_id": "i", "kind": "image", "num_frames": 1, "source_id": "s0"}
    dataset.append("clips", [*reversed(videos), image])
    dataset.append("sources", [
        {"source_uri": f"u{i}", "source_root": "r", "partition": f"p{i}", "source_id": f"s{i}",
         "status": "ok"} for i in range(2)
    ])  # fmt: skip
    dataset.append("scores", [
        {"clip_id": f"c{i}", "scorer": "m", "version": "1", "value": i / 10} for i in range(1, 9)
    ])  # fmt: skip
    return dataset


def chosen(dataset, versions=None, **selection):
    with chosen_clips(dataset, Selection(**selection), versions, ["clip_id"]) as found:
        return "".join(found.read_all()["clip_id"].to_pylist()).replace("c", "")


def test_clips_come_sorted_with_the_columns_that_are_asked_for(dataset):
    selection = Selection(validation_share=0.2, test_share=0.2)
    with chosen_clips(dataset, selection, columns=["split", "clip_id"]) as found:
        rows = found.read_all().to_pylist()
    assert [row["clip_id"] for row in rows] == [*(f"c{i}" for i in range(1, 10)), "i"]
    assert [row["split"] for row in rows[:5]] == [
        *["test"] * 1,
        *["validation"] * 2,
        *["train"] * 2,
    ]


def test_an_unknown_column_is_named(dataset):
    with (
        pytest.raises(ConfigError, match=r"columns \['nope'\]"),
        chosen_clips(dataset, Selection(), columns=["nope"]),
    ):
        pass


def test_frames_measure_videos_and_not_images(dataset):
    assert chosen(dataset, min_frames=7) == "789i"


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"kinds": ("image",)}, "i"),
        ({"kinds": ()}, ""),
        ({"transform_id": "t", "min_frames": 8}, "89"),
        ({"source_root": "r", "partitions": ("p0",)}, "2468i"),
        ({"source_root": "elsewhere"}, ""),
        ({"partitions": ("p1",), "min_frames": 4}, "579"),
        ({"bounds": (Bound(scorer="m", version="1", least=0.65),)}, "78"),
        ({"bounds": (Bound(scorer="m", version="2"),)}, ""),
        ({"bounds": (Bound(scorer="m", version="1", least=0.75, kinds=("video",)),)}, "8i"),
        ({"bounds": (Bound(scorer="m", version="1", least=0.75, kinds=()),)}, "123456789i"),
        ({"bounds": (Bound(scorer="num_frames", version="clip", least=3, most=4),)}, "34"),
        ({"bounds": (Bound(scorer="fps", version="clip", most=23),)}, ""),
    ],
)
def test_a_selection_takes(dataset, selection, expected):
    assert chosen(dataset, **selection) == expected


def test_the_newest_word_on_a_source_counts_at_the_version_that_is_asked_for(dataset):
    versions = {"sources": dataset.version("sources")}
    dataset.append(
        "sources",
        [{"source_uri": "u0", "source_root": "r", "partition": "p0", "source_id": "s0",
          "status": "vanished"}],
    )  # fmt: skip
    assert chosen(dataset, source_root="r") == "13579"
    assert chosen(dataset, versions, source_root="r") == "123456789i"


def test_doubles_are_left_out_where_what_they_double_is_there(dataset):
    dataset.append("duplicates", [
        {"clip_id": "c4", "of_clip_id": "c2", "version": "v"},
        {"clip_id": "c8", "of_clip_id": "c1", "version": "v"},
        {"clip_id": "c6", "of_clip_id": "c2", "version": "w"},
        {"clip_id": "c2", "of_clip_id": "c2", "version": "v"},
    ])  # fmt: skip
    assert chosen(dataset, duplicate_versions=("v",)) == "1235679i"
    assert chosen(dataset, duplicate_versions=("v",), partitions=("p0",)) == "268i"
    assert chosen(dataset) == "123456789i"


def test_of_clips_that_double_each_other_by_two_searches_one_stays(dataset):
    dataset.append("duplicates", [
        {"clip_id": "c2", "of_clip_id": "c4", "version": "v"},
        {"clip_id": "c4", "of_clip_id": "c2", "version": "w"},
        {"clip_id": "c6", "of_clip_id": "c4", "version": "v"},
    ])  # fmt: skip
    assert chosen(dataset, duplicate_versions=("v", "w")) == "1235789i"
    assert chosen(dataset, duplicate_versions=("v",)) == "1345789i"


def test_a_bound_on_what_is_no_measure_is_named(dataset):
    with pytest.raises(ConfigError, match="scorer 'codec' with version 'clip'"):
        chosen(dataset, bounds=(Bound(scorer="codec", version="clip"),))
