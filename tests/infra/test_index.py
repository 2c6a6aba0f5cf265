"""The index of a release: its rows, sorted so that an order needs no more than its shards."""

import dataclasses
import errno
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import DataError
from infra.store import index, release
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from infra.store.texts import text_hash


def filled(root, clips):
    """A dataset and a release of captioned clips (id, shard, frames, kind)."""
    dataset = Dataset.open(root, create=True)
    dataset.append("clips", [
        {"clip_id": name, "media_file": shard, "num_frames": frames, "kind": kind,
         "split_bucket": 999, "media_sha256": name, "media_offset": 7, "width": 32, "height": 24}
        for name, shard, frames, kind in clips
    ])  # fmt: skip
    dataset.append("captions", [
        {"clip_id": name, "text": f"clip {name}", "origin": "human", "status": "ok"}
        for name, *_ in clips
    ])  # fmt: skip
    return release.create(dataset, "r", Selection(validation_share=0, test_share=0))


CLIPS = [
    ("a", "media/z", 5, "video"), ("b", "media/y", 9, "video"), ("c", "media/z", 12, "video"),
    ("d", "media/z", 1, "image"), ("e", "media/y", 12, "video"), ("f", "media/y", 3, "video"),
]  # fmt: skip


def members(found, shards):
    return [
        [found.row(int(first) + i)["clip_id"] for i in range(count)]
        for first, count in zip(shards.firsts, shards.counts, strict=True)
    ]


def test_shards_stand_by_their_first_clip_and_hold_the_longest_first(tmp_path):
    found = index.opened(filled(str(tmp_path / "d"), CLIPS), tmp_path)
    assert members(found, found.shards("train", "video")) == [["c", "a"], ["e", "b", "f"]]
    assert members(found, found.shards("train", "video", min_frames=9)) == [["c"], ["e", "b"]]
    assert members(found, found.shards("train", "image", min_frames=9)) == [["d"]]
    assert found.shards("test", "video").num_clips == 0


def test_rows_say_what_reading_needs(tmp_path):
    row = index.opened(filled(str(tmp_path / "d"), CLIPS), tmp_path).row(0)
    assert row["text_hash"] == text_hash(row["text"])
    assert row["media_offset"] == 7


@settings(max_examples=12, deadline=None)
@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=4),
        st.tuples(st.sampled_from("xyz"), st.integers(1, 6), st.sampled_from(["video", "image"])),
        min_size=1, max_size=30,
    ),
    st.integers(1, 7), st.integers(1, 5),
)  # fmt: skip
def test_every_clip_that_is_long_enough_stands_once(tmp_path_factory, clips, rows, least):
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_BATCH_ROWS", rows)  # shards reach over batches
        found = index.opened(filled(str(folder / "d"), [(n, *c) for n, c in clips.items()]), folder)
        for kind in ("video", "image"):
            shards = found.shards("train", kind, least)
            stand = members(found, shards)
            long_enough = [
                n for n, (_, f, k) in clips.items() if k == kind and (f >= least or k == "image")
            ]
            assert sorted(name for shard in stand for name in shard) == sorted(long_enough)
            assert all(len({clips[n][0] for n in shard}) == 1 for shard in stand)
            frames = [sum(clips[n][1] for n in shard) for shard in stand]
            assert shards.frames.tolist() == frames


def test_it_is_kept_beside_the_release_and_not_made_again(tmp_path):
    made = filled(str(tmp_path / "d"), CLIPS)
    path = index.opened(made, tmp_path).path
    assert path == tmp_path / "d" / "releases" / f"r.{made.digest[:12]}.arrow"
    before = path.stat().st_mtime_ns
    assert index.opened(made, tmp_path).path.stat().st_mtime_ns == before
    assert release.names(made.root) == ["r"]


def test_the_same_release_gives_the_same_bytes(tmp_path):
    made = filled(str(tmp_path / "d"), CLIPS)
    path = index.opened(made, tmp_path).path
    first = path.read_bytes()
    path.unlink()
    assert index.opened(made, tmp_path).path.read_bytes() == first


def test_it_travels_as_its_path(tmp_path):
    found = index.opened(filled(str(tmp_path / "d"), CLIPS), tmp_path)
    sent = pickle.dumps(found)
    assert len(sent) < 500
    assert pickle.loads(sent).row(1) == found.row(1)


@pytest.mark.parametrize("content", [b"", b"ARROW1 and then nothing of the kind"])
def test_a_damaged_index_is_named(tmp_path, content):
    made = filled(str(tmp_path / "d"), CLIPS)
    path = index.opened(made, tmp_path).path
    path.write_bytes(content)
    with pytest.raises(DataError, match="delete it, it is made again"):
        index.opened(made, tmp_path)


def test_an_index_of_another_release_is_refused(tmp_path):
    first = filled(str(tmp_path / "d"), CLIPS)
    second = filled(str(tmp_path / "e"), CLIPS[:2])
    path = index.opened(first, tmp_path).path
    path.write_bytes(index.opened(second, tmp_path).path.read_bytes())
    with pytest.raises(DataError, match="not the index of release r"):
        index.opened(first, tmp_path)


def test_from_s3_it_is_fetched_once_a_node_and_left_there_for_others(s3, tmp_path):
    made = filled(f"{s3}/d", CLIPS)
    one, other = (tmp_path / name for name in ("one", "other"))
    first = index.opened(made, one)
    assert first.path.is_relative_to(one)
    second = index.opened(made, other)
    assert second.path.read_bytes() == first.path.read_bytes()
    assert index.opened(made, one).row(3) == first.row(3)


def test_the_same_content_below_another_root_has_an_index_of_its_own(s3, tmp_path):
    first = filled(f"{s3}/one", CLIPS)
    other = [(name, f"{shard}-again", *rest) for name, shard, *rest in CLIPS]
    second = filled(f"{s3}/other", other)
    assert first.digest == second.digest
    files = [index.opened(made, tmp_path).row(0)["media_file"] for made in (first, second)]
    assert files == ["media/z", "media/z-again"]


def test_a_release_made_anew_does_not_take_the_index_of_the_one_before(tmp_path):
    made = filled(str(tmp_path / "d"), CLIPS)
    index.opened(made, tmp_path)
    again = dataclasses.replace(made, created_at="later")
    with pytest.raises(DataError, match="not the index of release r"):
        index.opened(again, tmp_path)


def refuse_links(monkeypatch, folder, number):
    link = os.link

    def refusing(source, target):
        if Path(target).parent == folder:
            raise OSError(number, os.strerror(number))
        link(source, target)

    monkeypatch.setattr(index.os, "link", refusing)


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    made = filled(str(tmp_path / "d"), CLIPS)
    folder = Path(made.root, "releases")
    before = set(folder.iterdir())
    refuse_links(monkeypatch, folder, errno.ENOSPC)
    with pytest.raises(DataError, match="the disk is full"):
        index.opened(made, tmp_path)
    assert set(folder.iterdir()) == before


def test_where_nothing_may_be_written_it_lies_in_the_cache(tmp_path, monkeypatch):
    made = filled(str(tmp_path / "d"), CLIPS)
    folder = Path(made.root, "releases")
    refuse_links(monkeypatch, folder, errno.EACCES)  # the tests run as root, whom no rights bind
    monkeypatch.setattr(index.os, "access", lambda *_: False)
    found = index.opened(made, tmp_path / "cache")
    assert found.path.is_relative_to(tmp_path / "cache")
    assert len(found) == len(CLIPS)
