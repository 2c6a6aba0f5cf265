"""What an ingest does about files that are refused, and about its own failures."""

import subprocess

import pyarrow as pa
import pytest

from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.video import encode_image, encode_video
from pipelines.ingest_config import IngestSettings
from pipelines.steps.commit import Ledger, Stamp
from pipelines.steps.write import WRITTEN
from tests.infra.videos import moving, noise
from tests.pipelines.ingests import SMALL, bring_in, bring_in_all, clips_of, verified


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
            (source / f"{number}.mp4").write_bytes(data)
        (disk / "ballast").write_bytes(bytes(900_000))
        with pytest.raises(DataError, match=r"disk|space"):
            bring_in(source, str(disk / "data"))
        (disk / "ballast").unlink()
        assert bring_in(source, str(disk / "data")).num_clips == 3
        assert verified(str(disk / "data")) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)
