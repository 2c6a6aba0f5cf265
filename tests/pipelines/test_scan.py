"""Scanning: counted frames, real times, and why a source is refused."""

import av
import numpy as np
import pytest

from infra.stills import VideoError
from infra.video import encode_image, encode_video
from pipelines.ingest_config import AcceptSettings
from pipelines.steps.scan import perceptual_hash, scan
from tests.infra.videos import from_second, moving, noise, sound, sound_and_picture, video

ACCEPT = AcceptSettings()

ACCEPT = AcceptSettings()


def reason(data):
    with pytest.raises(VideoError) as caught:
        scan(data, ACCEPT)
    return caught.value.reason


def test_frames_and_times_are_counted():
    found = scan(encode_video(moving(), 8), ACCEPT)
    assert (found.num_frames, found.is_vfr, found.keyframes) == (12, False, [0])
    assert found.seconds(found.end_pts) == pytest.approx(1.5)


def test_a_varying_rate_is_seen():
    assert scan(encode_video(moving(5), 10, pts_s=[0, 0.1, 0.3, 0.35, 1.0]), ACCEPT).is_vfr


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
@pytest.mark.parametrize("container", ["matroska", "webm"])
def test_a_file_that_was_cut_off_is_truncated(container, share):
    codec = "libx264" if container == "matroska" else "libvpx-vp9"
    data = video(noise(40), container, codec)
    assert scan(data, ACCEPT).num_frames == 40
    assert reason(data[: int(len(data) * share)]) in ("truncated", "corrupt")


def test_an_mp4_with_its_index_in_front_that_was_cut_off_is_truncated(tmp_path):
    path = tmp_path / "whole.mp4"
    options = {"movflags": "faststart"}
    with av.open(str(path), "w", format="mp4", container_options=options) as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in noise(40):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    data = path.read_bytes()
    assert scan(data, ACCEPT).num_frames == 40
    assert reason(data[: len(data) * 6 // 10]) in ("truncated", "corrupt")


def test_sound_that_outlasts_the_picture_is_no_truncation():
    assert scan(sound_and_picture(4), ACCEPT).num_frames == 12


def test_frames_before_the_first_keyframe_are_left_out():
    data = video(noise(40), options={"g": "20", "sc_threshold": "0", "bf": "0"})
    found = scan(from_second(data, 0.5), ACCEPT)
    assert found.num_frames == 20
    assert found.keyframes == [0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty_file"),
        (b"noise" * 999, "unreadable"),
        (sound(), "no_video"),
        (video(transfer=18), "hdr"),
        (video(options={"x264-params": "interlaced=1"}), "interlaced"),
        (encode_image(moving(1)[0])[:120], "truncated"),
    ],
    ids=["0 bytes", "noise", "sound", "HLG", "interlaced", "cut png"],
)
def test_refused_sources_say_why(data, expected):
    assert reason(data) == expected


def test_most_random_damage_is_found():
    """Damage that decodes without a word is rare; with codec threads it would be common."""
    random = np.random.default_rng(3)
    good = np.frombuffer(video(noise(40)), np.uint8)
    refused = 0
    for _ in range(20):
        data = good.copy()
        start = random.integers(200, len(data) - 4000)
        data[start : start + 2048] = random.integers(0, 256, 2048)
        try:
            scan(data.tobytes(), ACCEPT)
        except VideoError:
            refused += 1
    assert refused >= 18


def test_the_perceptual_hash_survives_encoding_and_tells_pictures_apart():
    first, other = noise(1, seed=1), noise(1, seed=2)
    hashes = [
        perceptual_hash(scan(data, ACCEPT).thumbs[0])
        for data in (
            encode_image(first[0]),
            encode_image(first[0], "jpeg"),
            encode_image(other[0]),
        )
    ]
    near, far = ((int(hashes[0], 16) ^ int(hashes[index], 16)).bit_count() for index in (1, 2))
    assert near <= 4
    assert far >= 16
