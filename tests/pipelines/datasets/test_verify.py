"""Verify: each kind of damage is found, by its name, and nothing else is told."""

import json

import pytest

from infra import storage
from pipelines.datasets.verify import verify


def kinds(dataset, quick=False):
    done = verify(dataset.root, threads=2, quick=quick)
    assert done.code == int(bool(done.tree["num_faults"]))
    return done.tree["num_faults"]


def rows(dataset):
    return dataset.read("clips").sort_by("media_offset").to_pylist()


def shard(dataset):
    return storage.local_path(dataset.uri(rows(dataset)[0]["media_file"]))


@pytest.mark.parametrize("quick", [False, True])
def test_a_sound_dataset_has_no_faults(corpus, quick):
    done = verify(corpus.root, threads=4, quick=quick)
    assert (done.code, done.tree["num_faults"], done.tree["num_clips"]) == (0, {}, 8)
    assert done.tree["num_orphans"] == 0


def test_a_missing_shard_is_one_fault_however_many_clips_lay_in_it(corpus):
    storage.delete(corpus.uri(rows(corpus)[0]["media_file"]))
    done = verify(corpus.root, threads=2, quick=True)
    assert done.tree["num_faults"] == {"lost_shard": 1}
    assert "clips: " in done.tree["faults"][0]["message"]


def test_a_truncated_shard_is_lost(local):
    data = shard(local).read_bytes()
    shard(local).write_bytes(data[: len(data) * 2 // 3])
    assert kinds(local, quick=True) == {"lost_shard": 1}


def test_a_flipped_byte_is_found_by_reading_and_not_by_footers(local):
    row = rows(local)[0]
    data = bytearray(shard(local).read_bytes())
    data[row["media_offset"] + row["media_length"] // 2] ^= 1
    shard(local).write_bytes(data)
    assert kinds(local, quick=True) == {}
    done = verify(local.root, 2, quick=False)
    assert done.tree["num_faults"] == {"damaged_clip": 1}
    assert done.tree["faults"][0]["subject"] == row["clip_id"]


def test_a_wrong_sum_is_found(local):
    row = rows(local)[0]
    wrong = row | {"clip_id": "copy", "media_sha256": "0" * 64}
    local.append("clips", [wrong])
    assert kinds(local) == {"damaged_clip": 1, "misplaced_clip": 1}


@pytest.mark.parametrize("change", [{"media_row": 99}, {"media_row": -1}, {"media_offset": 7}])
def test_a_row_that_points_elsewhere_is_misplaced(local, change):
    row = rows(local)[0]
    local.append("clips", [row | {"clip_id": "elsewhere"} | change])
    assert kinds(local, quick=True)["misplaced_clip"] == 1


def test_rows_that_stand_twice_are_found(local):
    local.append("clips", rows(local)[:2])
    captions = local.read("captions").slice(0, 3)
    local.append("captions", captions)
    local.append("scores", local.read("scores").slice(0, 1))
    assert kinds(local) == {"doubled_clip": 2, "doubled_caption": 3, "doubled_score": 1}


def test_rows_about_clips_that_are_not_there_are_found(local):
    local.append("captions", [{"clip_id": "a", "caption_id": "1", "text": "t", "status": "ok"}])
    local.append("scores", [{"clip_id": "b", "scorer": "s", "version": "1", "value": 1.0}])
    local.append("duplicates", [{"clip_id": "c", "of_clip_id": "d", "version": "1"}])
    assert kinds(local) == {"unknown_clip": 4}


def test_a_row_without_bytes_is_found(local):
    local.append("clips", [{"clip_id": "empty", "kind": "video"}])
    assert kinds(local) == {"incomplete_clip": 1}


def test_clips_that_a_source_lost_are_found(local):
    source = local.read("sources").to_pylist()[0]
    local.append("sources", [source | {"num_clips": 3}])
    assert kinds(local) == {"lost_clips": 1}


def test_a_vector_of_the_wrong_length_is_found(local):
    clip = rows(local)[0]["clip_id"]
    local.append("vectors", [{"clip_id": clip, "width": 4, "values": b"123"}])
    assert kinds(local) == {"broken_values": 1}


def test_a_release_that_was_edited_is_found(local):
    uri = local.uri("releases", "first.json")
    tree = json.loads(storage.read_text(uri))
    storage.write_bytes(uri, json.dumps(tree | {"digest": "0" * 64}).encode())
    assert kinds(local) == {"changed_release": 1}


def test_a_release_that_cannot_be_understood_is_found(local):
    storage.write_bytes(local.uri("releases", "torn.json"), b'{"digest"')
    assert kinds(local) == {"broken_release": 1}


def test_a_table_whose_data_is_gone_is_found(local):
    (path,) = local.rows("scores").files
    storage.delete(local.uri("scores", path))
    found = kinds(local, quick=True)
    assert found["broken_table"] == 1


def test_orphans_are_told_and_are_no_fault(local):
    storage.write_bytes(local.uri("media", "0123.parquet"), b"left by a killed task")
    done = verify(local.root, 2, quick=False)
    assert (done.code, done.tree["num_orphans"]) == (0, 1)
