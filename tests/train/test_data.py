"""Batches from a real dataset: shape, framerates, and what is refused by name."""

import math
from pathlib import Path

import numpy as np
import pytest

from infra import excerpt
from infra.errors import ConfigError, DataError
from tests.train import little
from train import decode
from train.config import ReaderSettings, TrainSettings
from train.data import Reader, Source, batches
from train.decode import Geometry
from train.text import encoder_id

SMALL = Geometry(frames=4, height=12, width=16)
SETTINGS = TrainSettings(
    batch_videos=4, batch_images=2, reader=ReaderSettings(framerates=(12.0, 6.0, 3.0))
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    root, text = little.make(tmp_path_factory.mktemp("reading"))
    return Source(root, "r1", encoder_id(text))


@pytest.fixture
def damaged(tmp_path) -> Source:
    """Three clips of one shard are overwritten."""
    root, text = little.make(tmp_path)
    (shard,) = Path(root, "media").glob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[: len(content) // 4] = bytes(len(content) // 4)
    shard.write_bytes(bytes(content))
    return Source(root, "r1", encoder_id(text))


def test_a_batch_has_the_shape_range_and_tokens_of_training(source):
    batch = Reader(source, SETTINGS, SMALL).batch(0, 0, 1)
    assert batch.clips.shape == (6, 3, 4, 12, 16)
    assert batch.clips.min() >= -1
    assert batch.clips.max() <= 1
    assert batch.cond.text.shape[0] == 6
    assert batch.cond.text_mask.any(dim=1).all()
    assert batch.cond.framerate[4:].tolist() == [0.0, 0.0]
    allowed = [math.log2(1 + 24 / fps) for fps in (12, 6)]
    assert all(min(abs(u - a) for a in allowed) < 1e-3 for u in batch.cond.framerate[:4].tolist())


def test_a_still_is_one_frame_repeated_and_a_video_moves(source):
    batch = Reader(source, SETTINGS, SMALL).batch(0, 0, 1)
    change = (batch.clips - batch.clips[:, :, :1]).abs().amax(dim=(1, 2, 3, 4))
    assert change[4:].tolist() == [0.0, 0.0]
    assert (change[:4] > 0.3).all()


def test_a_batch_says_which_of_its_clips_are_images_and_what_they_are_called(source):
    batch = Reader(source, SETTINGS, SMALL).batch(0, 0, 1)
    assert batch.is_image == (False,) * 4 + (True,) * 2
    stills = {"0006", "0007", "0008"}  # after six videos
    assert [name in stills for name in batch.clip_ids] == list(batch.is_image)


def test_too_many_unreadable_clips_stop_training_by_name(damaged):
    reader = Reader(damaged, SETTINGS, SMALL)
    with pytest.raises(DataError, match=r"reader\.max_bad_share"):
        list(batches(reader, range(8), 0, 1, processes=0))


def test_a_kind_that_the_release_lacks_is_named(tmp_path):
    root, text = little.make(tmp_path, num_images=0)
    with pytest.raises(ConfigError, match="batch_images: 2 asked for"):
        Reader(Source(root, "r1", encoder_id(text)), SETTINGS, SMALL)


def test_a_release_of_short_videos_only_is_refused(source):
    with pytest.raises(ConfigError, match="no video to train on"):
        Reader(source, SETTINGS, Geometry(frames=13, height=12, width=16))


def test_frames_are_those_nearest_in_time_at_variable_rate():
    times = np.array([0.0, 0.1, 0.15, 0.5, 0.6])
    assert excerpt.nearest(times, np.array([0.0, 0.12, 0.3, 0.7])).tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize(("num_frames", "fps"), [(4, {12.0, 6.0}), (12, {12.0}), (7, {12.0, 6.0})])
def test_a_framerate_is_drawn_among_those_that_fit(num_frames, fps):
    times = np.arange(13) / 12
    draws = [np.random.default_rng(i) for i in range(40)]
    got = {decode.framerate(times, num_frames, (24.0, 12.0, 6.0, 1.0), draw) for draw in draws}
    assert got == fps
