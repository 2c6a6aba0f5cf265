"""The ingest end to end on Ray: mixed folders, repeats, kills, and faults that are named."""

import json
import subprocess
import sys
import time
from dataclasses import asdict

import pyarrow as pa
import pytest

from infra import storage
from infra.errors import ConfigError, DataError
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.video import decode, encode_image, encode_video
from pipelines import dataset as dataset_command
from pipelines.ingest import graph, ingest_partition
from pipelines.ingest_config import AcceptSettings, CutSettings, IngestSettings
from pipelines.steps.commit import Ledger
from pipelines.steps.discover import discover
from pipelines.steps.write import WRITTEN
from tests.infra.videos import moving, sound, video
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


def uris(root):
    return [file.uri for files in discover(root, SMALL).values() for file in files]


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
    return root, ingest_partition(root, uris(source), SMALL, "run-1", "commit")


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
    assert ingest_partition(root, uris(source), SMALL, "run-2") == counts
    assert state(root) == before


def test_a_part_first_and_then_all_is_the_same_as_all_at_once(straight, source, tmp_path):
    root, counts = straight
    other = str(tmp_path / "data")
    ingest_partition(other, sorted(uris(source))[:5], SMALL, "run-1")
    found = ingest_partition(other, uris(source), SMALL, "run-1")
    assert asdict(found) == asdict(counts)
    assert state(other) == state(root)


def test_what_was_refused_of_a_clip_survives_a_kill_right_after_its_commit(tmp_path, ray_local):
    (tmp_path / "two.mp4").write_bytes(encode_video(TWO_SHOTS, 8))  # 12 and 10 frames
    accept = AcceptSettings(min_frames=11)
    settings = IngestSettings(accept=accept, clips_per_commit=1, max_refused_share=1.0)
    files, root = uris(str(tmp_path)), str(tmp_path / "data")
    dataset = Dataset.open(root, create=True)
    ledger = Ledger(dataset, settings, {"run_id": "killed", "code_version": ""}, len(files))
    for block in graph(dataset, files, ledger.known, settings).iter_batches(
        batch_size=None, batch_format="pyarrow"
    ):
        ledger.add(block)  # and here it dies
    assert dataset.read("clips").num_rows == 1
    assert ingest_partition(root, files, settings, "again").by_reason == {"short_shot": 1}


def test_another_way_of_cutting_gives_other_clips(straight, source):
    root, counts = straight
    settings = IngestSettings(cut=CutSettings(window_s=5.0))
    found = ingest_partition(root, uris(source), settings, "run-3")
    assert found.transform_id != counts.transform_id
    assert found.num_clips > counts.num_clips
    assert found.source_ids == counts.source_ids


def test_the_dataset_command_shows_and_checks_it(source, tmp_path, ray_local):
    root = str(tmp_path / "data")
    ingest_partition(root, uris(source), SMALL, "run-1")
    assert "unknown_codec 1" in dataset_command.show(root)
    assert "8 clips" in dataset_command.verify(root)
    assert "2 clips" in dataset_command.release(root, "first")
    assert "releases    first" in dataset_command.show(root)
    shard = next((tmp_path / "data" / "media").iterdir())
    shard.write_bytes(shard.read_bytes().replace(b"ftyp", b"pyft"))
    with pytest.raises(DataError, match="faults; restore"):
        dataset_command.verify(root)
    with pytest.raises(ConfigError, match="a name is needed"):
        dataset_command.release(root)
    with pytest.raises(ConfigError, match="unexpected words"):
        dataset_command.show(root, "more")


def test_too_many_refused_files_fail_the_run_and_are_in_quarantine(tmp_path, ray_local):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.png").write_bytes(encode_image(moving(1)[0]))
    root = str(tmp_path / "data")
    with pytest.raises(DataError, match=r"2 of 3 files.*\(empty_file 2\).*max_refused"):
        ingest_partition(root, uris(str(tmp_path)), IngestSettings(), "run-1")
    assert Dataset.open(root).read("quarantine").num_rows == 2


def test_the_first_refused_files_are_named_and_the_rest_only_counted(tmp_path, caplog):
    ledger = Ledger(Dataset.open(str(tmp_path), create=True), SMALL, {"run_id": "1"}, 30)
    refusal = {"stage": "read", "reason": "empty_file", "message": "0 bytes", "retryable": False}
    rows = [
        {"source_uri": f"/{i:02d}.mp4", "source_id": "", "num_clips": 0, "refusals": [refusal]}
        for i in range(30)
    ]
    ledger.add(pa.Table.from_pylist(rows, schema=WRITTEN))
    told = [one.getMessage() for one in caplog.records if "quarantine" in one.getMessage()]
    assert told[0] == "quarantined reason=empty_file file=/00.mp4: 0 bytes"
    assert len(told) == 21


def test_a_file_that_cannot_be_read_is_refused_and_worth_another_try(tmp_path, ray_local):
    (tmp_path / "good.png").write_bytes(encode_image(moving(1)[0]))
    files = [*uris(str(tmp_path)), str(tmp_path / "gone.mp4")]
    counts = ingest_partition(str(tmp_path / "data"), files, SMALL, "run-1")
    assert counts.by_reason == {"unreadable_file": 1}
    (row,) = Dataset.open(str(tmp_path / "data")).read("quarantine").to_pylist()
    assert row["retryable"]


def test_a_shard_that_cannot_be_written_is_one_clear_error_and_no_row(tmp_path, ray_local):
    (tmp_path / "good.png").write_bytes(encode_image(moving(1)[0]))
    root, files = str(tmp_path / "data"), uris(str(tmp_path))
    Dataset.open(root, create=True)
    (tmp_path / "data" / "media").write_bytes(b"in the way")
    with pytest.raises(DataError, match="cannot be written"):
        ingest_partition(root, files, SMALL, "run-1")
    assert Dataset.open(root).version("clips") == -1
    (tmp_path / "data" / "media").unlink()
    assert ingest_partition(root, files, SMALL, "run-1").num_clips == 1


PROGRAM = """
import dataclasses, json, sys
from infra import cluster
from pipelines.ingest import ingest_partition
from pipelines.ingest_config import IngestSettings
from pipelines.steps.discover import discover
source, root = sys.argv[1:]
cluster.start(cluster.ClusterSettings(num_cpus=2, dashboard=False, object_store_mib=128))
settings = IngestSettings(files_per_task=2, clips_per_commit=1)
files = [file.uri for files in discover(source, settings).values() for file in files]
print(json.dumps(dataclasses.asdict(ingest_partition(root, files, settings, "run-1"))))
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
    assert "8 clips" in dataset_command.verify(other)
