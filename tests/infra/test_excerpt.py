"""Some frames of a clip are those of a full decode, whatever the codec and wherever they lie."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import excerpt, video
from infra.excerpt import View
from infra.stills import VideoError
from tests.infra import videos

SMALL = View(height=24, width=32)
KINDS = {
    "h264": {"options": {"bf": "3", "g": "12"}},
    "h264 open": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "hevc": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}},
    "vp9": {"container": "webm", "codec": "libvpx-vp9", "options": {"g": "12"}},
    "vp8": {"container": "webm", "codec": "libvpx", "options": {"g": "12", "auto-alt-ref": "1"}},
    "av1": {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}},
    "mpeg4": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "avi": {"container": "avi", "codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "mpegts": {"container": "mpegts", "options": {"g": "12"}},
    "turned": {"rotation": 90},
    "wide pixels": {"sar": Fraction(2)},
}


def clip(num_frames=40):
    """Waves that pass by, so that neighbouring frames differ a little, [T,H,W,3]."""
    rows, columns = np.mgrid[:64, :96]
    waves = [
        [127 + 120 * np.sin((columns * (c + 1) + rows + 5 * t) / 17) for c in range(3)]
        for t in range(num_frames)
    ]
    return np.moveaxis(np.array(waves), 1, -1).astype(np.uint8)


def whole(data, view=SMALL):
    """Every frame, decoded by one pass over the file and shown as the view says."""
    with excerpt.opened(data, view) as film:
        film._decode_all()
        return np.stack(film._whole), film.times_s


@pytest.fixture(scope="module", params=KINDS)
def encoded(request):
    return videos.video(clip(), **KINDS[request.param])


@pytest.mark.parametrize("chosen", [[0, 1, 2], [26, 29, 32], [5, 5, 17], [39], [38, 13, 0]])
def test_frames_are_those_of_a_full_decode(encoded, chosen):
    every, _ = whole(encoded)
    with excerpt.opened(encoded, SMALL) as film:
        assert np.array_equal(film.frames(np.array(chosen)), every[chosen])


def test_times_are_known_without_decoding(encoded):
    with excerpt.opened(encoded, SMALL) as film:
        assert film._pts
        assert np.allclose(film.times_s, video.decode(encoded).pts_s)


def test_a_film_can_be_asked_again(encoded):
    every, _ = whole(encoded)
    with excerpt.opened(encoded, SMALL) as film:
        for chosen in ([30, 31], [3, 4], [30, 31]):
            assert np.array_equal(film.frames(np.array(chosen)), every[chosen])


def test_only_what_lies_between_keyframe_and_last_frame_is_decoded():
    data = videos.video(clip(), **KINDS["h264"])
    with excerpt.opened(data, SMALL) as film:
        shown = []
        show = film._shown
        film._shown = lambda frame: shown.append(frame.pts) or show(frame)
        film.frames(np.array([26, 28]))
        assert [film._pts.index(pts) for pts in shown] == [26, 28]
        assert film._start(film._pts[26]) == 24


def test_the_pixels_are_those_of_the_picture():
    data = videos.video(clip(), options={"crf": "8"})
    with excerpt.opened(data, View(64, 96)) as film:
        difference = film.frames(np.array([20]))[0].astype(int) - clip()[20]
    assert np.abs(difference).mean() < 6


def test_variable_rate_keeps_its_times():
    times = np.cumsum([0, *([0.05, 0.2, 0.1] * 13)])
    data = video.encode_video(clip(), 10, pts_s=times.tolist())
    with excerpt.opened(data, SMALL) as film:
        assert np.allclose(film.times_s, times, atol=1e-3)


def test_without_times_in_its_packets_a_clip_is_decoded_whole():
    data = videos.video(clip(), container="h264")
    with excerpt.opened(data, SMALL) as film:
        assert not film._pts
        assert film.frames(np.array([7, 39])).shape == (2, 24, 36, 3)


@pytest.mark.parametrize("kind", ["h264", "hevc", "mpeg4"])
def test_a_start_that_an_edit_list_hides_is_not_shown_and_the_rest_is(kind):
    data = videos.from_second(videos.video(clip(), **KINDS[kind]), 0.0, "mp4", offset_s=-0.5)
    full = video.decode(data)
    assert len(full.frames) == 35
    with excerpt.opened(data, View(64, 96)) as film:
        assert np.allclose(film.times_s, full.pts_s)
        assert np.array_equal(film.frames(np.arange(35)), full.frames)


def test_a_damaged_frame_is_a_fault():
    data = bytearray(videos.video(clip(), options={"g": "12", "bf": "0"}))
    middle = data.index(b"mdat") + len(data) // 3
    data[middle : middle + 400] = bytes(400)
    with pytest.raises(VideoError), excerpt.opened(bytes(data), SMALL) as film:
        film.frames(np.arange(40))


def test_black_bars_are_not_shown():
    frames = np.zeros((4, 64, 96, 3), np.uint8)
    frames[:, 16:48] = 200
    crop = {"x": 0, "y": 16, "w": 96, "h": 32}
    with excerpt.opened(videos.video(frames), View(16, 48, crop)) as film:
        assert film.frames(np.array([1])).min() > 150
        assert film.shown_hw == (32, 96)
    pixels, shown = excerpt.still(video.encode_image(frames[0]), View(16, 48, crop))
    assert pixels.min() == 200
    assert shown == (32, 96)


@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 99), st.integers(1, 99),
    st.tuples(*[st.integers(-5, 400)] * 4) | st.none(),
)  # fmt: skip
def test_a_view_covers_its_size_and_stays_inside(width, height, want_w, want_h, box):
    crop = dict(zip("xywh", (*box[:2], abs(box[2]), abs(box[3])), strict=True)) if box else None
    (full_w, full_h), (rows, columns) = View(want_h, want_w, crop).scaled(width, height)
    got_h, got_w = rows.stop - rows.start, columns.stop - columns.start
    assert got_h >= want_h
    assert got_w >= want_w
    assert got_h == want_h or got_w == want_w or min(got_h - want_h, got_w - want_w) <= 1
    assert 0 <= rows.start <= rows.stop <= full_h
    assert 0 <= columns.start <= columns.stop <= full_w


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30), st.floats(0, 20))
def test_the_nearest_frame_is_the_nearest(gaps, wanted):
    times = np.cumsum([0.0, *gaps])
    found = int(excerpt.nearest(times, np.array([wanted]))[0])
    assert abs(times[found] - wanted) == pytest.approx(np.abs(times - wanted).min())
