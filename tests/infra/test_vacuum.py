"""Vacuum: what nothing needs goes, what anything may need stays."""

import os
import subprocess
import sys
import time

import boto3
import deltalake
import pytest

from infra import storage
from infra.errors import DataError
from infra.store import release, vacuum
from infra.store.compact import compact
from infra.store.dataset import Dataset
from infra.store.media import write_shard
from infra.store.selection import Selection
from infra.store.work import ALIVE


def clip(dataset, name):
    (ref,) = write_shard(dataset, [(name, name.encode())])
    return {"clip_id": name, "kind": "image", "split_bucket": 500} | ref.columns()


def caption(name):
    return {"clip_id": name, "caption_id": name, "text": name, "origin": "human", "status": "ok"}


@pytest.fixture
def dataset(tmp_path):
    return Dataset.open(str(tmp_path / "data"), create=True)


@pytest.fixture(params=["local", "s3"])
def anywhere(request, tmp_path):
    root = str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3")
    return Dataset.open(root, create=True)


def garbage(dataset, older_than_h=0.0):
    time.sleep(0.02)  # the store's clock must have gone on since the last write
    return {
        one.uri.removeprefix(dataset.uri("")): one for one in vacuum.find(dataset, older_than_h)
    }


def clean(dataset):
    for one in list(garbage(dataset).values()):
        vacuum.remove(one)


def age(dataset, hours):
    """Make every file as old as that; only a local disk can be told."""
    then = time.time() - hours * 3600
    for info in list(storage.list_files(dataset.root)):
        os.utime(info.uri, (then, then))


def test_only_shards_without_a_clip_are_garbage(anywhere):
    time.sleep(1)  # moto stamps whole seconds
    kept, lost = clip(anywhere, "kept"), clip(anywhere, "lost")
    anywhere.append("clips", [kept])
    time.sleep(1.1)
    found = garbage(anywhere)
    assert set(found) == {lost["media_file"]}
    assert found[lost["media_file"]].kind == "media"
    assert found[lost["media_file"]].size_bytes > len("lost")


def test_a_young_shard_is_left_to_its_writer(dataset):
    clip(dataset, "being written")
    assert garbage(dataset, older_than_h=1) == {}
    age(dataset, hours=2)
    assert len(garbage(dataset, older_than_h=1)) == 1


def test_age_is_measured_by_the_clock_of_the_store(dataset):
    """A local clock that is a day ahead must not make young shards old."""
    clip(dataset, "young")
    program = (
        "import time, sys; real = time.time; time.time = lambda: real() + 86400; "
        "time.time_ns = lambda: int(time.time() * 1e9); "
        "from infra.store import vacuum; from infra.store.dataset import Dataset; "
        "sys.exit(len(list(vacuum.find(Dataset.open(sys.argv[1]), 1))))"
    )
    done = subprocess.run([sys.executable, "-c", program, dataset.root], check=False)
    assert done.returncode == 0


def test_a_release_outlives_compaction_and_vacuum(anywhere):
    for name in ("a", "b", "c"):
        anywhere.append("clips", [clip(anywhere, name)])
        anywhere.append("captions", [caption(name)])
    made = release.create(anywhere, "pinned", Selection())
    anywhere.append("captions", [caption("a") | {"caption_id": "later", "text": "later"}])
    assert compact(anywhere, "captions").num_files_removed == 4
    assert compact(anywhere, "clips").num_files_removed == 3
    time.sleep(1.1)
    clean(anywhere)
    again = release.load(anywhere.root, "pinned")
    assert release.digest_of(again) == (made.digest, 3)
    assert sorted(again.captions()["text"].to_pylist()) == ["a", "b", "c"]


def test_media_of_a_release_stays_also_where_another_program_deleted_its_rows(dataset):
    clips = {name: clip(dataset, name) for name in ("pinned", "free")}
    dataset.append("clips", [clips["pinned"]])
    dataset.append("captions", [caption("pinned")])
    release.create(dataset, "pinned", Selection())
    dataset.append("clips", [clips["free"]])
    deltalake.DeltaTable(dataset.uri("clips")).delete()
    media = {name for name, one in garbage(dataset).items() if one.kind == "media"}
    assert media == {clips["free"]["media_file"]}


def test_what_compaction_replaced_goes_where_no_release_pins_it(dataset):
    for name in ("a", "b", "c"):
        dataset.append("captions", [caption(name)])
    before = dataset.read("captions").sort_by("clip_id")
    compact(dataset, "captions")
    clean(dataset)
    files = list(storage.list_files(dataset.uri("captions")))
    assert sum(info.uri.endswith(".zstd.parquet") or "part-" in info.uri for info in files) == 1
    assert dataset.read("captions").sort_by("clip_id") == before
    with pytest.raises(DataError, match="gone"):
        dataset.read("captions", version=2)


def test_files_of_a_version_that_was_the_newest_lately_stay(dataset):
    """A reader that began an hour before the compaction still reads what it opened."""
    for name in ("a", "b"):
        dataset.append("captions", [caption(name)])
    age(dataset, hours=48)
    compact(dataset, "captions")
    assert garbage(dataset, older_than_h=24) == {}
    assert dataset.read("captions", version=2).num_rows == 2


def test_a_data_file_that_was_never_committed_goes(dataset):
    dataset.append("captions", [caption("a")])
    stray = dataset.uri("captions", "part-00000-killed.parquet")
    storage.write_bytes(stray, b"half a file")
    assert set(garbage(dataset)) == {"captions/part-00000-killed.parquet"}


def test_temporary_files_and_scratch_folders_go(dataset):
    dataset.append("clips", [clip(dataset, "a")])
    left = {
        "media/.0123.parquet.0123456789abcdef0123456789abcdef.tmp": "temporary",
        "releases/.r.json.0123456789abcdef0123456789abcdef.tmp": "temporary",
        "work/ingest/blob": "work",
    }
    for name in left:
        storage.write_bytes(dataset.uri(name), b"x")
    storage.write_bytes(dataset.uri("notes.txt"), b"somebody's own")
    assert {name: one.kind for name, one in garbage(dataset).items()} == left


def test_the_scratch_folder_of_a_run_that_goes_on_stays_however_old(dataset):
    for name in ("dead/000000.arrow", "dead/.alive", "long/000000.arrow"):
        storage.write_bytes(dataset.uri("work", name), b"")
    age(dataset, 48)
    storage.write_bytes(dataset.uri("work", "long", ALIVE), b"")
    assert set(garbage(dataset, 24)) == {"work/dead/000000.arrow", "work/dead/.alive"}


def test_a_release_that_cannot_be_understood_stops_everything(dataset):
    clip(dataset, "orphan")
    storage.write_bytes(dataset.uri("releases", "broken.json"), b"{")
    with pytest.raises(DataError, match="cannot be understood"):
        garbage(dataset)


def test_a_release_whose_versions_cannot_be_read_stops_everything(dataset):
    dataset.append("clips", [clip(dataset, "a")])
    dataset.append("captions", [caption("a")])
    release.create(dataset, "pinned", Selection())
    compact(dataset, "captions")
    storage.delete(dataset.uri("captions", "_delta_log", f"{1:020d}.json"))
    with pytest.raises(DataError, match=r"captions: version .* remove the release that pins it"):
        garbage(dataset)


def test_an_empty_dataset_has_no_garbage(anywhere):
    assert garbage(anywhere) == {}
    assert vacuum.orphans(anywhere) == (0, 0)


def test_an_ingest_that_commits_meanwhile_loses_nothing(dataset):
    """Shards are listed before the tables are read, and are too young besides."""
    shard = clip(dataset, "late")
    found = vacuum.find(dataset, older_than_h=1)
    dataset.append("clips", [shard])
    assert list(found) == []


def test_uploads_that_were_never_ended_are_given_up(s3):
    dataset = Dataset.open(f"{s3}/corpus", create=True)
    bucket = s3.removeprefix("s3://")
    client = boto3.client("s3")
    for key in ("corpus/media/half.parquet", "another/half"):
        begun = client.create_multipart_upload(Bucket=bucket, Key=key)
        client.upload_part(
            Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x"
        )
    time.sleep(1.1)
    assert [one.kind for one in garbage(dataset).values()] == ["upload"]
    clean(dataset)
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [one["Key"] for one in left] == ["another/half"]


def test_a_data_file_that_is_being_written_stays(dataset):
    dataset.append("captions", [caption("a")])
    age(dataset, hours=48)
    storage.write_bytes(dataset.uri("captions", "part-00000-writing.parquet"), b"half a file")
    assert garbage(dataset, older_than_h=24) == {}


def test_a_file_that_was_written_long_before_its_commit_stays(dataset):
    """A writer may have been slow: what counts is that a version needs the file."""
    dataset.append("captions", [caption("a")])
    age(dataset, hours=48)
    dataset.append("captions", [caption("b")])
    then = time.time() - 48 * 3600
    for info in storage.list_files(dataset.uri("captions")):
        if info.uri.endswith(".parquet"):
            os.utime(info.uri, (then, then))
    assert garbage(dataset, older_than_h=24) == {}
    assert dataset.read("captions").num_rows == 2
