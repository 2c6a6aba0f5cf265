"""Weights folders: fetched from S3, identified by content."""

from infra import storage, weights


def test_a_hub_id_is_handed_on_as_it_is():
    assert weights.fetch("google-t5/t5-11b") == "google-t5/t5-11b"
    assert weights.revision("google-t5/t5-11b", "abc") == "abc"


def test_the_same_files_elsewhere_have_the_same_revision(tmp_path):
    for name in ("here", "there"):
        storage.write_bytes(f"{tmp_path}/{name}/model.safetensors", b"12")
        storage.write_bytes(f"{tmp_path}/{name}/.lock", name.encode())
    here, there = (weights.revision(f"{tmp_path}/{name}", "main") for name in ("here", "there"))
    assert here == there
    storage.write_bytes(f"{tmp_path}/other/model.safetensors", b"13")
    assert weights.revision(f"{tmp_path}/other", "main") != here


def test_a_folder_in_s3_is_copied_here(s3):
    storage.write_bytes(f"{s3}/t5/model.safetensors", b"12")
    assert storage.read_bytes(f"{weights.fetch(f'{s3}/t5')}/model.safetensors") == b"12"
