"""What training reads is decided by release, seed and cursor: not by ranks, restarts or caches."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from infra import storage
from infra.errors import DataError
from tests.train import little
from train.config import ReaderSettings, TrainSettings
from train.data import Reader, Source, batches
from train.decode import Geometry
from train.text import encoder_id

SMALL = Geometry(frames=4, height=12, width=16)
READER = ReaderSettings(framerates=(12.0, 6.0), window_shards=2, crop="random", cache_mib=0)
SETTINGS = TrainSettings(batch_videos=12, batch_images=12, num_workers=1, seed=3, reader=READER)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    """Seventeen videos and seven images in shards of five."""
    folder = tmp_path_factory.mktemp("reading")
    root, text = little.make(folder, num_videos=17, num_images=7, per_shard=5)
    return Source(root, "r1", encoder_id(text))


@pytest.fixture
def damaged(tmp_path) -> Source:
    """Shards with a hole; about a third of the clips are gone."""
    root, text = little.make(tmp_path, num_videos=17, num_images=7, per_shard=5)
    for shard in Path(root, "media").glob("*.parquet"):
        content = bytearray(shard.read_bytes())
        content[: len(content) // 3] = bytes(len(content) // 3)
        shard.write_bytes(bytes(content))
    return Source(root, "r1", encoder_id(text))


def changed(**reader):
    return SETTINGS.model_copy(update={"reader": READER.model_copy(update=reader)})


def samples(batch):
    """Clip and pixels of each sample."""
    hashes = [hashlib.sha256(np.ascontiguousarray(clip)).hexdigest() for clip in batch.clips]
    return list(zip(batch.clip_ids, hashes, batch.seeds, batch.is_image, strict=True))


def whole(readers, step):
    """The global batch that these ranks read together: videos, then images."""
    shares = [
        samples(reader.batch(step, rank, len(readers))) for rank, reader in enumerate(readers)
    ]
    everything = [sample for share in shares for sample in share]
    return sorted(everything, key=lambda sample: sample[3])


def test_any_number_of_ranks_reads_the_same_global_batches(source):
    expected = [whole([Reader(source, SETTINGS, SMALL)], step) for step in range(4)]
    assert len({clip for batch in expected for clip, *_ in batch}) == 24
    for num_ranks in (2, 3, 4):
        readers = [Reader(source, SETTINGS, SMALL) for _ in range(num_ranks)]
        assert [whole(readers, step) for step in range(4)] == expected


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_a_resume_in_mid_epoch_goes_on_where_it_was(source, num_ranks):
    unbroken = Reader(source, SETTINGS, SMALL)
    expected = [whole([unbroken], step) for step in range(5)]
    cursors = unbroken.cursors(2)
    assert cursors["video"] == {
        "release_digest": unbroken.digest, "seed": 3, "epoch": 1, "samples_consumed": 24 - 17,
    }  # fmt: skip
    assert cursors["image"]["epoch"] == 24 // 7
    readers = [Reader(source, SETTINGS, SMALL) for _ in range(num_ranks)]
    for reader in readers:
        reader.resume(2, cursors)
    assert [whole(readers, step) for step in range(2, 5)] == expected[2:]
    assert readers[0].cursors(5) == unbroken.cursors(5)


def test_a_resume_with_another_batch_size_goes_on_at_the_next_sample(source):
    first = Reader(source, SETTINGS, SMALL)
    seen = [sample for step in range(3) for sample in whole([first], step)]
    halved = SETTINGS.model_copy(update={"batch_videos": 6, "batch_images": 0})
    second = Reader(source, halved, SMALL)
    second.resume(1, first.cursors(1))
    got = [sample for step in range(1, 5) for sample in whole([second], step)]
    assert got == [sample for sample in seen if not sample[3]][12:]


def test_a_cursor_of_another_release_is_refused(source):
    reader = Reader(source, SETTINGS, SMALL)
    cursors = reader.cursors(1)
    cursors["video"]["release_digest"] = "another"
    with pytest.raises(DataError, match="cursor is of release another"):
        reader.resume(1, cursors)


def test_a_batch_of_one_kind_is_what_it_is_beside_the_other(source):
    both = whole([Reader(source, SETTINGS, SMALL)], 1)
    for name, of_image in (("batch_videos", True), ("batch_images", False)):
        settings = SETTINGS.model_copy(update={name: 0})
        alone = whole([Reader(source, settings, SMALL)], 1)
        assert alone == [sample for sample in both if sample[3] == of_image]


@pytest.mark.parametrize(
    "reader",
    [{"cache_mib": 64}, {"read_ahead": 0}, {"read_ahead": 3, "fetch_threads": 1}],
)
def test_what_is_kept_or_fetched_ahead_changes_nothing(source, reader):
    plain, other = Reader(source, SETTINGS, SMALL), Reader(source, changed(**reader), SMALL)
    for step in (0, 2, 0, 1):
        assert whole([other], step) == whole([plain], step)


@pytest.mark.timeout(60)
def test_clips_that_are_all_kept_are_not_looked_for_to_the_end_of_the_run(source):
    reader = Reader(source, changed(cache_mib=64), SMALL)
    for step in range(4):  # once around: nothing needs to be fetched any more
        reader.batch(step, 0, 1)
    reader.batch(4, 0, 1, coming=range(5, 10**7))


def test_decoding_processes_change_nothing(source):
    reader = Reader(source, SETTINGS, SMALL)
    here = list(batches(reader, range(5), 1, 2, processes=0))
    there = list(batches(reader, range(5), 1, 2, processes=2))
    assert [samples(batch) for batch in here] == [samples(batch) for batch in there]
    for one, other in zip(here, there, strict=True):
        assert vars(one.cond).keys() == vars(other.cond).keys()
        for name, held in vars(one.cond).items():
            arrived = getattr(other.cond, name)
            assert held is arrived is None or torch.equal(held, arrived), name
            assert held is None or held.dtype == arrived.dtype


def test_substitutes_are_the_same_at_any_number_of_ranks_and_shift_nothing(source, damaged, caplog):
    settings = changed(max_bad_share=1.0)
    good = Reader(source, SETTINGS, SMALL)
    alone = Reader(damaged, settings, SMALL)
    expected = [whole([alone], step) for step in range(3)]
    for num_ranks in (2, 3):
        readers = [Reader(damaged, settings, SMALL) for _ in range(num_ranks)]
        assert [whole(readers, step) for step in range(3)] == expected
    bad = set(alone._bad)
    assert len(bad) > 3
    pairs = [
        (found, wanted)
        for step in range(3)
        for found, wanted in zip(expected[step], whole([good], step), strict=True)
    ]
    assert all(found == wanted for found, wanted in pairs if wanted[0] not in bad)
    assert all(found[0] not in bad for found, _ in pairs)
    assert "clip replaced clip_id=" in caplog.text


def test_a_batch_says_which_clips_it_could_not_show(damaged):
    reader = Reader(damaged, changed(max_bad_share=1.0), SMALL)
    bad = {name for step in range(4) for name in reader.batch(step, 0, 1).bad}
    assert bad == set(reader._bad)
    again = {name for step in range(4) for name in reader.batch(step, 0, 1).bad}
    assert again == bad


def test_a_crop_is_drawn_anew_for_each_sample(source):
    settings = changed(crop="random").model_copy(update={"batch_videos": 0, "batch_images": 7})
    wide = Geometry(frames=1, height=24, width=16)  # a third of an image's width
    reader = Reader(source, settings, wide)
    first, second = (dict(sample[:2] for sample in whole([reader], step)) for step in (0, 1))
    assert first.keys() == second.keys()
    assert sum(first[name] != second[name] for name in first) > 2


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_a_span_begins_anywhere_in_its_clip(source, cache_mib):
    settings = changed(crop="center", framerates=(12.0,), cache_mib=cache_mib)
    one_epoch = settings.model_copy(update={"batch_videos": 17, "batch_images": 0})
    reader, shown = Reader(source, one_epoch, SMALL), {}
    for step in range(4):
        for name, pixels, *_ in whole([reader], step):
            shown.setdefault(name, set()).add(pixels)
    assert len(shown) == 17
    assert sum(len(spans) > 1 for spans in shown.values()) > 12


@pytest.fixture(params=["s3", "rclone_s3"])
def remote(request, source, tmp_path) -> Source:
    """The same dataset on a server that speaks S3."""
    bucket = request.getfixturevalue(request.param)
    storage.upload_folder(Path(source.dataset_root), f"{bucket}/d")
    return Source(f"{bucket}/d", source.release, source.encoder_id)


def test_from_s3_come_the_same_samples_through_a_bounded_cache(source, remote, tmp_path):
    settings = changed(disk_cache=str(tmp_path), disk_cache_mib=1)
    local, far = Reader(source, SETTINGS, SMALL), Reader(remote, settings, SMALL)
    for step in range(3):
        assert whole([far], step) == whole([local], step)
    assert list((tmp_path / "clips").rglob("*"))
    for shard in storage.list_files(f"{remote.dataset_root}/media"):
        storage.delete(shard.uri)
    again = Reader(remote, settings, SMALL)  # what was fetched is there, also for others
    assert whole([again], 1) == whole([local], 1)


READ = """
import sys
from tests.train.test_reader import SMALL, Reader, Source, changed
settings = changed(disk_cache=sys.argv[4], disk_cache_mib=1)
reader = Reader(Source(*sys.argv[1:4]), settings, SMALL)
for step in range(10**6):
    reader.batch(step, 0, 1)
    print(step, flush=True)
"""


def test_a_reader_that_was_killed_leaves_a_cache_that_others_can_use(source, s3, tmp_path):
    storage.upload_folder(Path(source.dataset_root), f"{s3}/d")
    words = [sys.executable, "-c", READ, f"{s3}/d", source.release, source.encoder_id]
    settings = changed(disk_cache=str(tmp_path), disk_cache_mib=1)
    local = Reader(source, SETTINGS, SMALL)
    process = subprocess.Popen([*words, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ)
    try:
        assert process.stdout.readline() == b"0\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    far = Reader(Source(f"{s3}/d", source.release, source.encoder_id), settings, SMALL)
    assert [whole([far], step) for step in range(3)] == [whole([local], s) for s in range(3)]
