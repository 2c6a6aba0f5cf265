"""Animated pictures, read back: when each frame is shown, and its pixels."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.animation import durations, encode_gif, encode_webp
from infra.errors import ConfigError
from infra.stills import filmstrip
from tests.infra.videos import moving, noise

ENCODERS = {"gif": encode_gif, "webp": encode_webp}


def read(data):
    """Return the frames, how long each is shown in ms, and how often all are (0: for ever)."""
    with Image.open(io.BytesIO(data)) as picture:
        frames, shown_ms = [], []
        for index in range(picture.n_frames):
            picture.seek(index)
            picture.load()
            frames.append(np.asarray(picture.convert("RGB")))
            shown_ms.append(picture.info["duration"])
        return np.stack(frames), shown_ms, picture.info["loop"]


@given(st.integers(1, 300), st.floats(0.5, 50), st.sampled_from([100, 1000]))
def test_a_frame_ends_within_half_a_tick_of_its_time(num_frames, fps, clock_hz):
    ends = np.cumsum(durations(num_frames, fps, clock_hz))
    due = np.arange(1, num_frames + 1) * clock_hz / fps
    assert np.abs(ends - due).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("kind", "ticks_ms"), [("gif", [40, 40, 40, 50]), ("webp", [42, 41, 42, 42])]
)
def test_frames_come_back_in_number_and_time(kind, ticks_ms):
    frames, shown_ms, _ = read(ENCODERS[kind](moving(12), 24))
    assert len(frames) == 12
    assert shown_ms[:4] == ticks_ms
    assert sum(shown_ms) == 500


@pytest.mark.parametrize("kind", ENCODERS)
def test_it_loops_for_ever(kind):
    assert read(ENCODERS[kind](moving(3), 8))[2] == 0


def test_a_webp_keeps_every_pixel():
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (4, 24, 32, 3), np.uint8)
    assert np.array_equal(read(encode_webp(frames, 8))[0], frames)


def test_a_gif_keeps_every_pixel_of_frames_with_few_colours():
    assert np.array_equal(read(encode_gif(noise(6), 8))[0], noise(6))


def test_a_gif_of_many_colours_is_near():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    frame = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[None, ::-1]), axis=-1)
    frames = np.stack([np.roll(frame, 8 * index, axis=1) for index in range(4)])
    assert np.abs(read(encode_gif(frames, 8))[0].astype(int) - frames).mean() < 6


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_frame_that_repeats_is_shown_for_as_long(kind):
    frames = moving(6)
    frames[3] = frames[2]
    _, shown_ms, _ = read(ENCODERS[kind](frames, 10))
    assert shown_ms == [100, 100, 200, 100, 100]


@pytest.mark.parametrize("kind", ENCODERS)
def test_one_frame_is_a_picture_too(kind):
    with Image.open(io.BytesIO(ENCODERS[kind](moving(1), 8))) as picture:
        assert picture.size == (64, 48)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_same_frames_give_the_same_bytes(kind):
    assert ENCODERS[kind](noise(), 8) == ENCODERS[kind](noise(), 8)


def test_a_gif_too_fast_for_players_is_refused():
    with pytest.raises(ConfigError, match="60 frames/s, players show at most 50"):
        encode_gif(moving(3), 60)


def test_a_strip_has_a_clip_a_row_at_one_frame_width():
    small, large = np.zeros((2, 3, 4, 3), np.uint8), np.full((2, 6, 8, 3), 200, np.uint8)
    strip = filmstrip([small, large], frame_width=8, gap=2)
    assert strip.shape == (6 + 2 + 6, 8 + 2 + 8, 3)
    assert (strip[:6, :8] == 0).all()
    assert (strip[8:, 10:] == 200).all()
    assert (strip[6:8] == 255).all()
