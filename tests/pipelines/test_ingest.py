"""The ingest end to end on Ray: mixed folders, repeats, kills, and faults that are named."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from infra import storage
from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.video import decode, encode_image, encode_video
from pipelines.datasets import actions
from pipelines.datasets.config import DatasetSettings
from pipelines.ingest import ingest
from pipelines.ingest_config import AcceptSettings, CutSettings, IngestSettings
from pipelines.prepare import prepared
from pipelines.refresh_config import RefreshSettings
from pipelines.sources.config import SourceSettings
from pipelines.steps.commit import Ledger, Stamp
from pipelines.steps.write import WRITTEN
from tests.infra.videos import moving, noise, sound, video
from tests.pipelines.test_shots import TWO_SHOTS

SMALL = IngestSettings(files_per_task=4, max_refused_share=0.7)


def fill(root):
    """A folder with captioned, uncaptioned, doubled and broken files."""
    plain = encode_video(moving(), 8)
    files = {
        "red.mp4": plain,
        "red.txt": b"\xef\xbb\xbfa red square moves right\n",
        "again.mp4": plain,
        "blue #1 \u00fc.webm": encode_video(moving(colour=(0, 0, 255)), 8, "webm", "libvpx-vp9"),
        "blue #1 \u00fc.txt": "\u00e9t\u00e9".encode("latin-1"),
        "still.png": encode_image(moving(1)[0]),
        "still.txt": b"a red square",
        "two.mp4": encode_video(TWO_SHOTS, 8),
        "two.txt": b"which of the two?",
        "long.mp4": encode_video(moving(25, colour=(0, 200, 0)), 1),
        "empty.mp4": b"",
        "page.mp4": b"<html></html>",
        "sound.mp4": sound(),
        "short.mp4": encode_video(moving(1), 8),
        "codec.mp4": plain.replace(b"avc1", b"zzzz"),
        "hdr.mp4": video(transfer=16),
    }
    for name, data in files.items():
        storage.write_bytes(storage.join(root, name), data)


def bring_in(source, root, settings=SMALL, run_id="run-1", code="", **refresh):
    """Ingest a source as the flow does it; return the counts of its only partition."""
    (counts,) = bring_in_all(source, root, settings, run_id, code, **refresh).values()
    return counts


def bring_in_all(source, root, settings=SMALL, run_id="run-1", code="", **refresh):
    wanted = RefreshSettings(**refresh)
    with prepared(root, str(source), SourceSettings(), settings, wanted) as found:
        return ingest(root, found, settings, SourceSettings(), run_id, code)


def state(root):
    """What tables hold, without what differs from run to run."""
    dataset = Dataset.open(root)
    clips = dataset.read("clips", columns=["clip_id", "media_sha256", "split_bucket"])
    captions = dataset.read("captions", columns=["clip_id", "text", "media_sha256"])
    refused = dataset.read("quarantine", columns=["source_id", "stage", "reason"])
    return [
        sorted(json.dumps(row) for row in rows.to_pylist()) for rows in (clips, captions, refused)
    ]


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


def verified(root):
    """Return the exit code of `snapvideo dataset verify`."""
    return actions.run(actions.Asked(root, DatasetSettings()), "verify")[1]


def clips_of(root):
    return Dataset.open(root).read("clips").to_pylist()


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


def test_too_many_refused_files_fail_the_run_and_are_in_quarantine(tmp_path, ray_local):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.png").write_bytes(encode_image(moving(1)[0]))
    root = str(tmp_path / "data")
    with pytest.raises(DataError, match=r"2 of 3 files.*\(empty_file 2\).*max_refused"):
        bring_in(tmp_path, root, IngestSettings())
    assert Dataset.open(root).read("quarantine").num_rows == 2


def test_the_first_refused_files_are_named_and_the_rest_only_counted(tmp_path, caplog):
    refusal = {"stage": "read", "reason": "empty_file", "message": "0 bytes", "retryable": False}
    nothing = {
        "source_id": "",
        "known": False,
        "captions": [],
        "clips": [],
        "why": "new",
        "attempts": 1,
    }
    rows = [nothing | {"source_uri": f"/{i:02d}.mp4", "refusals": [refusal]} for i in range(30)]
    dataset = Dataset.open(str(tmp_path), create=True)
    with Ledger(dataset, SMALL, Stamp("1", "", "/"), 30) as ledger:
        ledger.add(pa.Table.from_pylist(rows, schema=WRITTEN))
    told = [one.getMessage() for one in caplog.records if "quarantine" in one.getMessage()]
    assert told[0] == "quarantined reason=empty_file file=/00.mp4: 0 bytes"
    assert len(told) == 21


def test_a_file_that_is_not_there_is_refused_and_tried_again_when_asked(tmp_path, ray_local):
    (tmp_path / "good.png").write_bytes(encode_image(moving(1)[0]))
    listed, root = tmp_path / "list.txt", str(tmp_path / "data")
    listed.write_text("good.png\ngone.mp4\n")
    counts = bring_in(listed, root)
    assert counts.by_reason == {"missing": 1}
    (row,) = Dataset.open(root).read("quarantine").to_pylist()
    assert row["retryable"]
    assert bring_in(listed, root) == counts
    assert attempts(root, "gone.mp4") == [1]
    assert bring_in(listed, root, retry=True) == counts
    assert attempts(root, "gone.mp4") == [1, 2]
    (tmp_path / "gone.mp4").write_bytes(encode_video(moving(), 8))
    assert bring_in(listed, root, retry=True).num_clips == 2


def attempts(root, name):
    rows = Dataset.open(root).read("sources", columns=["source_uri", "attempts"]).to_pylist()
    return sorted(row["attempts"] for row in rows if row["source_uri"].endswith(name))


def test_a_shard_that_cannot_be_written_is_one_clear_error_and_no_row(tmp_path, ray_local):
    (tmp_path / "good.png").write_bytes(encode_image(moving(1)[0]))
    root = str(tmp_path / "data")
    Dataset.open(root, create=True)
    (tmp_path / "data" / "media").write_bytes(b"in the way")
    with pytest.raises(DataError, match="cannot be written"):
        bring_in(tmp_path / "good.png", root)
    assert not clips_of(root)
    assert not list((tmp_path / "data" / "work").iterdir())
    (tmp_path / "data" / "media").unlink()
    assert bring_in(tmp_path / "good.png", root).num_clips == 1


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


def test_one_dead_entry_of_a_hundred_is_counted_and_no_more(tmp_path, ray_local):
    data = encode_image(moving(1)[0])
    names = [f"{number:02d}.png" for number in range(100)]
    for name in names[1:]:
        (tmp_path / name).write_bytes(data)
    (tmp_path / "list.txt").write_text("\n".join(names))
    settings = IngestSettings(files_per_task=60, max_refused_share=0.02)
    counts = bring_in(tmp_path / "list.txt", str(tmp_path / "data"), settings)
    assert (counts.num_refused, counts.by_reason) == (1, {"missing": 1})
    assert (counts.num_clips, counts.num_duplicates) == (1, 98)


def test_one_bad_row_does_not_fail_those_beside_it(tmp_path, ray_local):
    (tmp_path / "good").mkdir()
    for number in range(2):
        (tmp_path / "good" / f"{number}.png").write_bytes(encode_image(moving(2)[number]))
    (tmp_path / "list.txt").write_text("good/0.png\ngood/1.png\n../../elsewhere.png\n")
    counts = bring_in_all(tmp_path / "list.txt", str(tmp_path / "data"), IngestSettings())
    assert (counts["good"].num_clips, counts["root"].num_refused) == (2, 1)


def test_a_source_without_a_clip_fails_unless_all_may_be_refused(tmp_path, ray_local):
    (tmp_path / "page.mp4").write_bytes(b"<html></html>")
    with pytest.raises(DataError, match="1 takes whatever comes"):
        bring_in(tmp_path, str(tmp_path / "data"), IngestSettings(max_refused_share=0.99))
    assert bring_in(tmp_path, str(tmp_path / "data"), IngestSettings(max_refused_share=1)).num_files


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


def test_a_disk_that_is_full_is_one_clear_error_and_a_rerun_goes_on(tmp_path, ray_local):
    source, disk = tmp_path / "source", tmp_path / "disk"
    for folder in (source, disk):
        folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        for number in range(3):
            data = encode_video(noise(12, 96, 128, number), 8, crf=0)
            (source / f"{number}.mp4").write_bytes(data * 1)
        (disk / "ballast").write_bytes(bytes(900_000))
        with pytest.raises(DataError, match=r"disk|space"):
            bring_in(source, str(disk / "data"))
        (disk / "ballast").unlink()
        assert bring_in(source, str(disk / "data")).num_clips == 3
        assert verified(str(disk / "data")) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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


PROGRAM = """
import dataclasses, json, sys
from infra import cluster, logs
logs.setup()
cluster.start(cluster.ClusterSettings(num_cpus=2, dashboard=False, object_store_mib=128))
from pipelines.ingest import ingest
from pipelines.ingest_config import IngestSettings
from pipelines.prepare import prepared
from pipelines.sources.config import SourceSettings
source, root = sys.argv[1:]
settings = IngestSettings(files_per_task=2, max_refused_share=0.7)
with prepared(root, source, SourceSettings(), settings) as found:
    (counts,) = ingest(root, found, settings, SourceSettings(), "run-1").values()
print(json.dumps(dataclasses.asdict(counts)))
"""


def start(source, root):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, source, root], stdout=subprocess.PIPE, text=True
    )


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
