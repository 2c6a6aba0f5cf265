"""Decoding what a decoder meets, and encoding the same bytes twice."""

import contextlib
import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from infra.stills import Limits, VideoError
from infra.video import decode, decode_image, encode_image, encode_video, probe
from tests.infra.videos import moving, noise, sound, video


def reason(data, limits=None):
    with pytest.raises(VideoError) as caught:
        decode(data, limits=limits)
    return caught.value.reason


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_what_is_encoded_is_decoded_with_its_times(kind, codec):
    frames = moving()
    clip = decode(encode_video(frames, 8, kind, codec))
    assert clip.frames.shape == frames.shape
    assert clip.frames.dtype == np.uint8
    assert clip.pts_s == pytest.approx(np.arange(12) / 8, abs=1e-3)
    assert np.abs(clip.frames.astype(int) - frames).mean() < 4


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_the_same_frames_give_the_same_bytes(kind, codec):
    assert encode_video(noise(), 8, kind, codec) == encode_video(noise(), 8, kind, codec)


def test_times_that_vary_are_kept():
    times = [0, 0.1, 0.3, 0.35, 1.0]
    clip = decode(encode_video(moving(5), 10, pts_s=times))
    assert clip.pts_s == pytest.approx(times, abs=1e-4)


def test_odd_sides_lose_a_pixel():
    assert decode(encode_video(moving(3, height=47, width=63), 8)).frames.shape[1:3] == (46, 62)


def test_a_header_says_what_the_file_holds():
    header = probe(encode_video(moving(), Fraction(30000, 1001)))
    assert (header.kind, header.codec, header.width, header.height) == ("video", "h264", 64, 48)
    assert header.fps == Fraction(30000, 1001)
    assert header.duration_s == pytest.approx(12 * 1001 / 30000, abs=1e-3)
    assert not header.has_audio


def test_long_sides_shrink_and_small_clips_stay():
    data = encode_video(moving(2), 8)
    assert decode(data, max_side=32).frames.shape == (2, 24, 32, 3)
    assert decode(data, max_side=640).frames.shape == (2, 48, 64, 3)


@pytest.mark.parametrize(("rotation", "corner"), [(90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotated_video_comes_out_upright(rotation, corner):
    frames = np.zeros((4, 48, 64, 3), np.uint8)
    frames[:, :24, :32] = 255  # the coded picture is white at its upper left
    data = video(frames, rotation=rotation)
    shown = decode(data).frames[0]
    assert probe(data).rotation in (rotation, -rotation)
    assert (probe(data).height, probe(data).width) == shown.shape[:2]
    quarters = [[shown[y, x].mean() > 128 for x in (4, -5)] for y in (4, -5)]
    assert np.argwhere(quarters).tolist() == [list(corner)]


def test_pixels_that_are_not_square_are_stretched():
    data = video(sar=Fraction(2, 1))
    assert decode(data).frames.shape[1:3] == (48, 128)
    assert (probe(data).width, probe(data).coded_width) == (128, 64)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "gray"])
def test_other_pixel_formats_become_rgb(pix_fmt):
    clip = decode(video(moving(), pix_fmt=pix_fmt))
    assert clip.frames.shape == (12, 48, 64, 3)


def test_transparent_video_lies_on_white():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        clear = np.zeros((48, 64, 4), np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(clear, format="bgra")))
        out.mux(stream.encode())
    assert decode(file.getvalue()).frames.min() == 255


def test_hdr_and_interlaced_video_say_so():
    assert probe(video(transfer=16)).is_hdr
    assert not probe(video()).is_hdr
    assert probe(video(options={"x264-params": "interlaced=1"})).interlaced


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_still_images_come_back(kind):
    frame = moving(1)[0]
    data = encode_image(frame, kind)
    error = np.abs(decode_image(data).astype(int) - frame).mean()
    assert error == 0 if kind == "png" else error < 5
    assert (probe(data).kind, probe(data).width) == ("image", 64)
    assert decode(data).frames.shape == (1, 48, 64, 3)


def test_a_photo_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", exif=exif)
    assert decode_image(file.getvalue()).shape == (64, 48, 3)
    assert (probe(file.getvalue()).width, probe(file.getvalue()).height) == (48, 64)


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGBA", "LA", "I;16", "CMYK"])
def test_images_of_every_mode_become_rgb(mode):
    file = io.BytesIO()
    Image.new(mode, (64, 48)).save(file, "TIFF" if mode in ("I;16", "CMYK") else "PNG")
    pixels = decode_image(file.getvalue())
    assert pixels.shape == (48, 64, 3)
    if mode in ("RGBA", "LA"):
        assert pixels.min() == 255  # nothing there: the white behind it shows


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty_file"),
        (b"<html>not found</html>" * 50, "unreadable"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n", "unreadable"),
        (encode_image(moving(1)[0])[:120], "truncated"),
        (sound(), "no_video"),
        (sound("wav", "pcm_s16le", "s16"), "no_video"),
        (encode_video(moving(), 8)[:600], "unreadable"),  # the index is at the end
        (encode_video(moving(), 8).replace(b"avc1", b"zzzz"), "unknown_codec"),
    ],
    ids=["0 bytes", "html", "playlist", "cut png", "mp4 sound", "wav", "cut mp4", "codec"],
)
def test_unusable_files_say_why(data, expected):
    assert reason(data) == expected


def test_a_file_that_is_not_there_is_unreadable(tmp_path):
    assert reason(tmp_path / "none.mp4") == "unreadable_file"


def test_names_with_odd_characters_open(tmp_path):
    path = tmp_path / "größe #1 100%: ünï.mp4"
    path.write_bytes(encode_video(moving(2), 8))
    assert len(decode(path).frames) == 2


def test_huge_frames_are_refused_before_they_are_decoded():
    data = encode_video(moving(2, height=480, width=640), 8)
    assert reason(data, Limits(max_frame_px=640 * 480 - 1)) == "too_large"
    png = encode_image(moving(1, height=480, width=640)[0])
    assert reason(png, Limits(max_frame_px=640 * 480 - 1)) == "too_large"


def test_a_pixel_shape_that_blows_frames_up_is_refused_before_they_are_decoded():
    stretched = video(sar=Fraction(10, 1))
    assert reason(stretched, Limits(max_frame_px=9 * 64 * 48)) == "too_large"
    assert decode(stretched, limits=Limits(max_frame_px=10 * 64 * 48)).frames.shape[2] == 640


def test_clips_that_would_fill_memory_are_refused():
    data = encode_video(moving(), 8)
    assert reason(data, Limits(max_clip_bytes=5 * 64 * 48 * 3)) == "too_large"
    assert reason(data, Limits(max_duration_s=1.0)) == "too_long"


def test_changed_bytes_raise_a_reason_or_decode():
    random = np.random.default_rng(7)
    good = np.frombuffer(encode_video(noise(), 8), np.uint8)
    for _ in range(60):
        data = good.copy()
        data[random.integers(0, len(data), 12)] = random.integers(0, 256, 12)
        with contextlib.suppress(VideoError):  # and nothing else
            assert decode(data.tobytes()).frames.ndim == 4
