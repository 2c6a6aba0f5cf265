"""The ingest end to end on Ray: mixed folders, repeats, kills, and faults that are named."""

import itertools
import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import ray

from infra import storage
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.video import decode, encode_image, encode_video
from pipelines.ingest_config import AcceptSettings, CutSettings, IngestSettings, TaskSettings
from tests.infra.videos import moving, noise
from tests.pipelines.ingests import (
    bring_in,
    bring_in_all,
    clips_of,
    fill,
    start,
    state,
    verified,
)
from tests.pipelines.test_shots import TWO_SHOTS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("source"))
    fill(root)
    return root


@pytest.fixture(scope="module")
def straight(source, tmp_path_factory, ray_local):
    """A dataset that one uninterrupted ingest wrote, and its counts."""
    root = str(tmp_path_factory.mktemp("straight") / "data")
    return root, bring_in(source, root, code="commit")


def test_a_mixed_folder_becomes_clips_captions_and_quarantine(straight):
    root, counts = straight
    clips = {row["source_uri"].rpartition("/")[2]: row for row in clips_of(root)}
    assert set(clips) == {"again.mp4", "blue #1 \u00fc.webm", "long.mp4", "still.png", "two.mp4"}
    assert (counts.num_files, counts.num_sources, counts.num_duplicates) == (12, 5, 1)
    assert (counts.num_videos, counts.num_images, counts.num_captions) == (7, 1, 2)
    assert counts.by_reason == {
        "caption_not_utf8": 1,
        "empty_file": 1,
        "hdr": 1,
        "no_video": 1,
        "too_short": 1,
        "unknown_codec": 1,
        "unreadable": 1,
    }
    assert (counts.num_refused, counts.num_quarantined) == (6, 7)
    texts = {row["text"] for row in Dataset.open(root).read("captions").to_pylist()}
    assert texts == {"a red square moves right", "a red square"}


def test_every_clip_holds_what_its_row_says(straight):
    root, _ = straight
    for row in clips_of(root):
        clip = decode(read_media(root, row))
        assert len(clip.frames) == row["num_frames"]
        assert clip.frames.shape[1:3] == (row["height"], row["width"])
        assert 0 <= row["split_bucket"] < 1000
        assert (row["run_id"], row["code_version"]) == ("run-1", "commit")


def test_windows_and_shots_cover_their_sources(straight):
    root, _ = straight
    rows = [row for row in clips_of(root) if row["source_uri"].endswith("long.mp4")]
    rows.sort(key=lambda row: row["src_start_pts"])
    assert sum(row["num_frames"] for row in rows) == 25
    assert [row["src_end_pts"] for row in rows[:-1]] == [row["src_start_pts"] for row in rows[1:]]
    shots = {row["shot_index"] for row in clips_of(root) if row["source_uri"].endswith("two.mp4")}
    assert shots == {0, 1}


def test_ingesting_again_adds_nothing_and_counts_the_same(straight, source):
    root, counts = straight
    before = state(root)
    assert bring_in(source, root, run_id="run-2") == counts
    assert state(root) == before


def test_a_part_first_and_then_all_is_the_same_as_all_at_once(straight, source, tmp_path):
    root, counts = straight
    other = str(tmp_path / "data")
    part = tmp_path / "part"
    part.mkdir()
    paths = sorted(Path(source).iterdir())
    for some in (paths[:6], paths[6:]):
        for path in some:
            shutil.copy(path, part)
        found = bring_in(part, other)
    assert asdict(found) == asdict(counts)
    assert state(other) == state(root)


def test_a_kill_between_two_tables_is_made_good(tmp_path, ray_local):
    """Whatever table the kill comes after, the rerun ends with what a straight run gives."""
    source, first = tmp_path / "source", tmp_path / "first"
    source.mkdir()
    (source / "two.mp4").write_bytes(encode_video(TWO_SHOTS, 8))  # 12 and 10 frames
    (source / "one.mp4").write_bytes(encode_video(moving(12), 8))
    (source / "one.txt").write_text("a red square")
    settings = IngestSettings(accept=AcceptSettings(min_frames=11), max_refused_share=1.0)
    counts = bring_in(source, str(first), settings)
    assert counts.by_reason == {"short_shot": 1}
    tables = ("clips", "captions", "scores", "quarantine", "sources")
    for number in range(1, len(tables)):
        killed = tmp_path / f"killed-{number}"
        shutil.copytree(first, killed)
        for table in tables[number:]:
            shutil.rmtree(killed / table)
        assert bring_in(source, str(killed), settings, "again") == counts
        assert state(str(killed)) == state(str(first))
        assert len(clips_of(str(killed))) == 2


def test_another_way_of_cutting_gives_other_clips(straight, source):
    root, counts = straight
    settings = IngestSettings(cut=CutSettings(window_s=5.0))
    found = bring_in(source, root, settings, "run-3")
    assert found.transform_id != counts.transform_id
    assert found.num_clips > counts.num_clips
    assert found.num_sources == counts.num_sources


def test_vanished_sources_are_noted_and_may_come_back(tmp_path, ray_local):
    source, root = tmp_path / "source", str(tmp_path / "data")
    for name in ("a/one.mp4", "b/two.mp4"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_bytes(encode_video(moving(colour=(len(name), 0, ord(name[0]))), 8))
    both = bring_in_all(source, root)
    (source / "b/two.mp4").rename(tmp_path / "aside.mp4")
    left = bring_in_all(source, root)
    assert {name: counts.num_files for name, counts in left.items()} == {"a": 1}
    shutil.move(tmp_path / "aside.mp4", source / "b/two.mp4")
    assert bring_in_all(source, root) == both
    assert len(clips_of(root)) == 2  # it was known


def test_a_caption_that_changes_to_and_fro_is_always_the_newest(tmp_path, ray_local):
    source, root = tmp_path / "source", str(tmp_path / "data")
    source.mkdir()
    (source / "one.mp4").write_bytes(encode_video(moving(), 8))
    for number, text in enumerate(("first", "second", "first")):
        (source / "one.txt").write_text(text)
        os.utime(source / "one.txt", (number, number))
        bring_in(source, root)
    rows = Dataset.open(root).read("captions").sort_by("commit_seq").to_pylist()
    assert [row["text"] for row in rows] == ["first", "second", "first"]
    assert len(clips_of(root)) == 1
    os.utime(source / "one.txt", (9, 9))
    bring_in(source, root)
    assert len(Dataset.open(root).read("captions")) == 3  # touched, but it says the same


def test_a_refresh_of_one_partition_leaves_the_others(tmp_path, ray_local):
    source, root = tmp_path / "source", str(tmp_path / "data")
    names = ["a/new\nline.png", "b/50% #1 \u00fc?.png", "b/..hidden not.png"]
    for number, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(encode_image(moving(1, colour=(number * 50, 0, 0))[0]))
    assert set(bring_in_all(source, root, partitions=("a",))) == {"a"}
    assert [row["source_uri"] for row in clips_of(root)] == [str(source / names[0])]
    (source / names[0]).unlink()
    assert set(bring_in_all(source, root, partitions=("b",))) == {"b"}
    rows = Dataset.open(root).read("sources", columns=["source_uri", "status"]).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}  # what went from `a` was not looked at
    found = {row["source_uri"] for row in clips_of(root)}
    assert str(source / names[1]) in found


@pytest.mark.parametrize("tasks", [TaskSettings(max_tasks=1), TaskSettings(cpus=3.0)])
def test_no_more_is_decoded_at_once_than_tasks_may(tmp_path, ray_local, tasks):
    for number in range(6):
        data = encode_video(noise(300, 192, 256, number), 24, crf=30)
        storage.write_bytes(str(tmp_path / "source" / f"{number}.mp4"), data)
    ray.get(
        [ray.remote(lambda: time.sleep(1.0)).remote() for _ in range(4)]
    )  # as many processes are there
    began_us = time.time() * 1e6
    bring_in(
        tmp_path / "source", str(tmp_path / "data"), IngestSettings(files_per_task=1, tasks=tasks)
    )
    deadline_s = time.monotonic() + 30
    while len(spans := decoding_since(began_us)) < 6:  # workers tell what they did now and then
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def decoding_since(began_us):
    """Return when each process began and ended to decode, in microseconds."""
    tasks = [
        one for one in ray.timeline() if one["cat"] == "task::_answers" and one["ts"] > began_us
    ]
    return sorted((one["ts"], one["ts"] + one["dur"]) for one in tasks)


def test_two_ingests_at_once_give_each_clip_once(source, straight, tmp_path, ray_local):
    _, counts = straight
    root = str(tmp_path / "data")
    Dataset.open(root, create=True)
    at_once = [start(source, root) for _ in range(2)]
    told = [process.communicate(timeout=240)[0] for process in at_once]
    assert [process.returncode for process in at_once] == [0, 0]
    assert json.loads(told[-1].strip().splitlines()[-1]) == asdict(counts)
    ids = [row["clip_id"] for row in clips_of(root)]
    assert len(ids) == len(set(ids)) == counts.num_clips


def test_an_ingest_in_s3_that_is_killed_ends_as_if_it_had_not_been(straight, s3, tmp_path):
    _, counts = straight
    source, other = storage.join(s3, "source"), storage.join(s3, "data")
    fill(source)
    Dataset.open(other, create=True)
    first = start(source, other)
    deadline_s = time.monotonic() + 120
    while Dataset.open(other).version("clips") < 1 and first.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    first.kill()
    first.wait()
    again = start(source, other)
    out, _ = again.communicate(timeout=240)
    assert again.returncode == 0
    assert json.loads(out.strip().splitlines()[-1]) == asdict(counts)
    assert len({row["clip_id"] for row in clips_of(other)}) == counts.num_clips
    assert verified(other) == 0
