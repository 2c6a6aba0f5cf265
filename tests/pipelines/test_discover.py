"""Discovery: media by partition, and folders that hold none."""

import pytest

from infra import storage
from infra.errors import DataError
from pipelines.ingest_config import IngestSettings
from pipelines.steps.discover import caption_uri, discover


def put(root, *names):
    for name in names:
        storage.write_bytes(storage.join(root, name), b"content")


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    return str(tmp_path / "src") if request.param == "local" else request.getfixturevalue("s3")


def test_the_first_folder_is_the_partition(root):
    put(root, "loose.mp4", "b/deep/er/y.WEBM", "b/x.png", "a/größe #1 ü.mp4", "a/notes.txt")
    found = discover(root, IngestSettings())
    names = {part: [f.uri.rpartition("/")[2] for f in files] for part, files in found.items()}
    assert names == {"a": ["größe #1 ü.mp4"], "b": ["y.WEBM", "x.png"], "root": ["loose.mp4"]}
    assert all(file.size_bytes == 7 for files in found.values() for file in files)


def test_a_sidecar_changes_the_stamp_of_its_file(root):
    put(root, "a.mp4", "b.mp4", "b.txt")
    plain, captioned = discover(root, IngestSettings())["root"]
    assert (plain.caption_bytes, captioned.caption_bytes) == (0, 7)
    assert caption_uri(captioned.uri).endswith("/b.txt")


def test_hidden_files_are_passed_over(root):
    put(root, "a.mp4", ".b.mp4", ".cache/c.mp4")
    assert len(discover(root, IngestSettings())["root"]) == 1


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="the folder is empty"):
        discover(str(tmp_path), IngestSettings())


def test_a_folder_without_media_is_refused_with_the_accepted_endings(root):
    put(root, "a.txt", "b.json")
    with pytest.raises(DataError, match=r"none of its 2 files is media.*mp4.*accept.suffixes"):
        discover(root, IngestSettings())


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        discover(str(tmp_path / "none"), IngestSettings())


def test_an_empty_prefix_in_s3_may_be_mistyped(s3):
    with pytest.raises(DataError, match="check bucket and prefix"):
        discover(storage.join(s3, "nothing"), IngestSettings())
    with pytest.raises(DataError, match="check bucket and prefix"):
        discover("s3://no-such-bucket/videos", IngestSettings())
