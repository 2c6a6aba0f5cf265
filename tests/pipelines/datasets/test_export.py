"""Exports, read back by the libraries that they are made for."""

import json
import os
import subprocess
import sys
import tarfile
import textwrap

import datasets
import pyarrow.parquet as pq
import pytest
import webdataset

from infra import storage
from infra.errors import ConfigError, DataError
from infra.store import release
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.selection import Selection
from pipelines.datasets import packs
from pipelines.datasets.config import DatasetSettings
from pipelines.datasets.export import export
from tests.pipelines.datasets.corpora import HOSTILE, caption, clip_rows

MIB = 1 << 20


def made(dataset, out, form, **over):
    settings = DatasetSettings(out=str(out), format=form, **{"release": "first"} | over)
    return export(dataset.root, settings, Selection()).tree


def media(dataset):
    rows = dataset.read("clips").to_pylist()
    return {row["clip_id"]: read_media(dataset.root, row) for row in rows}


def texts(dataset):
    found = release.load(dataset.root, "first").captions().to_pylist()
    return {row["clip_id"]: row["text"] for row in found}


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return str(tmp_path / "cache")


def test_webdataset_reads_what_is_exported(local, tmp_path):
    counts = made(local, tmp_path / "tars", "webdataset")
    assert counts["num_clips"] == {"train": 6, "test": 2}
    found = {}
    for path in sorted((tmp_path / "tars").glob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            facts = json.loads(sample["json"])
            assert facts["split"] == path.name.partition("-")[0]
            assert facts["scores"][0]["scorer"] == "motion"
            picture = sample.get("mp4") or sample["png"]
            found[sample["__key__"]] = (picture, sample["txt"].decode())
    assert {key: data for key, (data, _) in found.items()} == media(local)
    assert {key: text for key, (_, text) in found.items()} == texts(local)
    assert HOSTILE in {text for _, text in found.values()}


def test_hugging_face_reads_what_is_exported(local, tmp_path, no_hub):
    made(local, tmp_path / "hub", "huggingface")
    found = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=no_hub)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 6, "test": 2}
    features = found["train"].features
    assert isinstance(features["video"], datasets.Video)
    assert isinstance(features["image"], datasets.Image)
    encoded = {
        split: found[split].cast_column("video", datasets.Video(decode=False)) for split in found
    }
    rows = [row for split in ("train", "test") for row in encoded[split].to_list()]
    assert {row["clip_id"]: row["text"] for row in rows} == texts(local)
    videos = {row["clip_id"]: row["video"]["bytes"] for row in rows if row["video"]}
    expected = media(local)
    assert videos == {key: expected[key] for key in videos}
    assert len(videos) == 7
    (image,) = [row for row in encoded["train"] if row["kind"] == "image"]
    assert image["image"].size == (64, 48)
    assert rows[0]["scores"][0]["scorer"] == "motion"


def test_a_folder_of_videos_alone_has_no_column_for_images(local, tmp_path, no_hub):
    release.create(local, "videos", Selection(kinds=("video",)))
    made(local, tmp_path / "hub", "huggingface", release="videos", splits=("train",))
    found = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=no_hub)
    assert "image" not in found["train"].features


def test_parquet_holds_the_bytes_and_the_facts(corpus, tmp_path):
    target = str(tmp_path / "rows")
    if storage.is_s3(corpus.root):
        target = corpus.root.rpartition("/")[0] + "/export"
    made(corpus, target, "parquet")
    files, path = storage.filesystem(target)
    tables = [
        pq.read_table(f"{path}/{split}-000000.parquet", filesystem=files)
        for split in ("train", "test")
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    assert {row["clip_id"]: (row["video"] or row["image"])["bytes"] for row in rows} == media(
        corpus
    )
    assert {row["clip_id"]: row["text"] for row in rows} == texts(corpus)


def test_shards_are_cut_by_size_and_each_clip_lies_in_one(local, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.datasets.export._MIB", 4000)
    tree = made(local, tmp_path / "tars", "webdataset", shard_mib=1)
    assert sum(one["num_clips"] for one in tree["shards"]) == 8
    assert len(tree["shards"]) > 3
    keys = []
    for one in tree["shards"]:
        with tarfile.open(tmp_path / "tars" / one["name"]) as tar:
            keys += [name for name in tar.getnames() if name.endswith(".json")]
    assert len(keys) == len(set(keys)) == 8


def test_an_export_goes_on_where_it_was_and_keeps_whole_shards(local, tmp_path):
    out = tmp_path / "tars"
    made(local, out, "webdataset")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    first = (out / "test-000000.tar").read_bytes()
    (out / "test-000000.tar").unlink()
    tree = made(local, out, "webdataset")
    assert tree["num_kept"] == 1
    assert (out / "test-000000.tar").read_bytes() == first
    assert (out / "train-000000.tar").stat().st_mtime_ns == before["train-000000.tar"]


def test_a_killed_export_leaves_no_half_shard(local, tmp_path):
    program = f"""
        import os
        from infra.store.selection import Selection
        from pipelines.datasets import export, packs
        from pipelines.datasets.config import DatasetSettings
        add = packs.TarPack.add
        def dying(self, row, data):
            add(self, row, data)
            if row["split"] == "test":
                os.kill(os.getpid(), 9)
        packs.TarPack.add = dying
        settings = DatasetSettings(out={str(tmp_path / "tars")!r}, release="first")
        export.export({local.root!r}, settings, Selection())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -9
    assert sorted(path.name for path in (tmp_path / "tars").glob("*.tar")) == ["train-000000.tar"]
    assert made(local, tmp_path / "tars", "webdataset")["num_kept"] == 1


def test_a_folder_with_another_export_is_refused(local, tmp_path):
    made(local, tmp_path / "out", "webdataset")
    with pytest.raises(DataError, match=r"other format.*--out"):
        made(local, tmp_path / "out", "parquet")
    local.append("captions", [caption(next(iter(media(local))), "newer")])
    with pytest.raises(DataError, match="other release"):
        made(local, tmp_path / "out", "webdataset", release="")


def test_a_folder_with_other_files_is_refused(local, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files"):
        made(local, tmp_path, "webdataset")


def test_a_folder_must_be_named(local):
    with pytest.raises(ConfigError, match="--out"):
        export(local.root, DatasetSettings(), Selection())


def test_a_dataset_without_captions_is_refused_and_claims_no_folder(tmp_path):
    bare = Dataset.open(str(tmp_path / "bare"), create=True)
    bare.append("clips", clip_rows(bare, 0, 1))
    with pytest.raises(DataError, match="no captioned clip"):
        made(bare, tmp_path / "out", "webdataset", release="")
    assert not os.path.lexists(tmp_path / "out")


def test_a_damaged_clip_stops_the_export_by_name(local, tmp_path):
    row = local.read("clips").to_pylist()[0]
    path = storage.local_path(local.uri(row["media_file"]))
    data = bytearray(path.read_bytes())
    data[row["media_offset"]] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="media_mismatch"):
        made(local, tmp_path / "out", "webdataset")


def test_a_name_that_leads_out_of_the_tar_is_refused(tmp_path):
    with (
        packs.TarPack(tmp_path / "x.tar") as pack,
        pytest.raises(DataError, match="not a name that snapvideo gives"),
    ):
        pack.add(dict.fromkeys(packs._FACTS) | {"clip_id": "../../etc/passwd"}, b"")


@pytest.mark.parametrize(
    ("container", "codec", "ending"),
    [
        ("mov,mp4,m4a,3gp,3g2,mj2", "h264", "mp4"),
        ("matroska,webm", "vp9", "webm"),
        ("matroska,webm", "h264", "mkv"),
        ("jpeg", "mjpeg", "jpg"),
        ("png", "png", "png"),
        ("mpegts", "h264", "ts"),
        (None, None, "bin"),
        ("../x", None, "bin"),
    ],
)
def test_a_file_is_named_after_its_container(container, codec, ending):
    assert packs.ending({"container": container, "codec": codec}) == ending
