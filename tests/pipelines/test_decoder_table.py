"""What a decoder meets: files that are none, sizes and times, stills, streams, names.

A file is made on the spot for every row of the table; it ends in clips or in one word of refusal.
What pixels come out as is in `test_decoder_pictures.py`.
"""

import io
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from infra.stills import VideoError
from infra.video import decode, encode_image, encode_video
from pipelines.ingest_config import AcceptSettings
from pipelines.steps.cut import cut
from pipelines.steps.scan import scan
from pipelines.steps.shots import spans
from tests.infra.videos import (
    concatenated,
    from_second,
    moving,
    noise,
    shifted,
    sound,
    video,
    with_cover,
)
from tests.pipelines.outcomes import ACCEPT, AUTO, BOTH, ENCODED, clips_of, error, reason, shown

# Files that are none


@pytest.mark.parametrize("how", ["full", "packets"])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty_file"),
        (b"<html><body>404 Not Found</body></html>" * 40, "unreadable"),
        (encode_video(moving(), 8)[:900], "unreadable"),
        (sound(), "no_video"),
        (sound("wav", "pcm_s16le", "s16"), "no_video"),
        (with_cover(), "no_video"),
        (encode_video(moving(1), 8), "too_short"),
        (encode_video(moving(), 8).replace(b"avc1", b"zzzz"), "unknown_codec"),
    ],
    ids=["0 bytes", "HTML", "no moov", "sound", "WAV", "cover art", "one frame", "codec"],
)
def test_what_is_no_video_is_refused(data, expected, how):
    assert reason(data, AcceptSettings(validate_by=how)) == expected


@pytest.mark.parametrize("how", ["full", "packets"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_a_matroska_file_that_was_cut_off_is_truncated(share, how):
    data = video(noise(120), "matroska", fps=24)
    accept = AcceptSettings(validate_by=how)
    assert len(shown(data, accept=accept)[0]) == 120
    assert reason(data[: int(len(data) * share)], accept) in ("truncated", "corrupt")


@pytest.mark.parametrize(
    ("container", "codec", "least"),
    [
        ("mp4", "libx264", 20),
        ("mpegts", "libx264", 20),
        ("avi", "mpeg4", 20),
        ("mpegts", "mpeg2video", 20),
        ("matroska", "libx264", 19),
        ("webm", "libvpx-vp9", 18),
    ],
)
def test_two_damaged_kilobytes_are_found(container, codec, least):
    """Some decoders fail, some only flag a frame: with several threads they would not.

    Matroska takes up again behind a hole, and VP9 has no way to notice wrong bits.
    """
    good = video(noise(60, 144, 256), container, codec, fps=24)
    reasons = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        data = bytearray(good)
        start = int(random.integers(2000, len(data) - 8000))
        data[start : start + 2048] = random.bytes(2048)
        try:
            clips_of(bytes(data))
        except VideoError as fault:
            reasons.append(fault.reason)
    assert len(reasons) >= least
    assert set(reasons) <= {"corrupt", "truncated", "bad_timestamps"}


# Sizes and times that cannot be


def test_a_frame_of_8192_by_8192_is_refused_before_it_is_decoded():
    plain = np.zeros((2, 8192, 8192, 3), np.uint8)
    data = video(plain, options={"preset": "ultrafast"})
    assert len(data) < 500_000
    start = data.index(b"mdat") + 4
    unreadable = data[:start] + b"\x00" * 1000 + data[start + 1000 :]
    assert reason(unreadable) == "too_large"


def test_a_declared_duration_of_days_is_too_long():
    data = bytearray(video(moving(), options={"bf": "0"}))
    at = data.index(b"stts") + 4 + 8  # version, entries, frames; then the time of each
    data[at + 4 : at + 8] = struct.pack(">I", 2**31 // 13)
    assert reason(bytes(data)) == "too_long"


def test_a_container_that_declares_days_for_a_second_is_read_by_its_stream():
    data = bytearray(video(moving()))
    at = data.index(b"mvhd") + 4 + 16
    data[at : at + 4] = struct.pack(">I", 2**31)
    assert len(shown(bytes(data))[0]) == 12


def test_an_absurd_rate_is_refused():
    assert reason(video(moving(), fps=5000)) == "absurd_rate"


def test_more_frames_than_accepted_are_refused_while_counting():
    assert reason(video(moving(40)), AcceptSettings(max_frames=39)) == "too_many_frames"
    accept = AcceptSettings(max_frames=39, validate_by="packets")
    assert reason(video(moving(40)), accept) == "too_many_frames"


def test_a_frame_that_comes_days_later_is_too_long():
    late = shifted(video(moving(), "matroska", options={"bf": "0"}), {11: 5 * 3600.0})
    assert reason(late) == "too_long"


# Stills


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"])
def test_a_still_is_one_image(kind):
    file = io.BytesIO()
    Image.fromarray(moving(1)[0]).save(file, kind, quality=95)
    frames, (clip,) = shown(file.getvalue())
    assert (clip.mode, clip.found.header.kind, len(frames)) == ("original", "image", 1)
    assert error(frames[0], moving(1)[0]) < (8 if kind == "GIF" else 5)


def png_of_zeros(side):
    """A PNG of `side` x `side` black pixels, one bit each: 300 KB for 2.5 billion pixels."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    packer = zlib.compressobj(9)
    line = bytes(1 + side // 8)
    body = b"".join(packer.compress(line * 100) for _ in range(side // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, part) for name, part in ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    )


def widened(kind, side):
    """A small picture whose header claims `side` pixels."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    data = bytearray(file.getvalue())
    if kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    if kind == "WEBP":
        at = data.index(b"VP8L") + 9  # 14 bits each, less one
        bits = int.from_bytes(data[at : at + 4], "little") & ~0xFFFFFFF
        data[at : at + 4] = (bits | (side - 1) | (side - 1) << 14).to_bytes(4, "little")
    if kind == "TIFF":
        at = struct.unpack("<I", data[4:8])[0] + 2
        for entry in (at, at + 12):  # ImageWidth, ImageLength come first
            data[entry + 8 : entry + 12] = struct.pack("<I", side)
            data[entry + 2 : entry + 4] = struct.pack("<H", 4)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        png_of_zeros(50_000),
        widened("WEBP", 16_000),
        widened("TIFF", 50_000),
        widened("GIF", 60_000),
    ],
    ids=["PNG", "WEBP", "TIFF", "GIF"],
)
def test_a_picture_that_unpacks_to_gigabytes_is_refused_by_its_header(data):
    assert len(data) < 500_000
    assert reason(data) == "too_large"


def test_an_animated_gif_is_a_video():
    frames, (clip,) = shown(video(moving(6), "gif", "gif", "rgb8"))
    assert (clip.found.header.kind, len(frames)) == ("video", 6)


# Times


@BOTH
def test_a_varying_rate_keeps_its_times(cutting):
    times = [0, 0.1, 0.3, 0.35, 1.0, 1.04]
    data = encode_video(moving(6), 10, pts_s=times)
    (clip,) = clips_of(data, cutting)
    assert clip.found.is_vfr
    assert decode(clip.data).pts_s == pytest.approx(times, abs=2e-4)


@BOTH
@pytest.mark.parametrize("how", ["full", "packets"])
def test_a_recording_that_starts_inside_a_group_begins_at_its_first_keyframe(cutting, how):
    data = video(noise(40), options={"g": "20", "sc_threshold": "0", "bf": "0"})
    frames, (clip,) = shown(from_second(data, 0.5), cutting, AcceptSettings(validate_by=how))
    assert len(frames) == 20
    assert clip.mode == ("transcode" if cutting is ENCODED else "remux")
    assert error(frames, decode(data).frames[20:]) < 6


@BOTH
@pytest.mark.parametrize("container", ["matroska", "mpegts", "flv", "mp4"])
def test_times_count_from_the_first_shown_frame(container, cutting):
    plain = video(moving(), container, fps=10)
    late = from_second(plain, 0.0, container, offset_s=7.25)
    found = scan(late, ACCEPT)
    assert (found.pts[0], found.num_frames) == (0, 12)
    (clip,) = clips_of(late, cutting)
    assert decode(clip.data).pts_s == pytest.approx(np.arange(12) / 10, abs=2e-3)


def test_frames_before_the_start_of_an_edit_list_are_not_shown():
    data = video(moving(20), "mov", fps=10, options={"bf": "0", "g": "250"})
    at = data.index(b"elst") + 4
    assert struct.unpack(">I", data[at + 4 : at + 8]) == (1,)
    clock = struct.unpack(">I", data[(h := data.index(b"mdhd") + 4 + 12) : h + 4])[0]
    edited = bytearray(data)
    edited[at + 8 : at + 16] = struct.pack(">II", 1500, clock // 2)  # 1.5 s of it, from 0.5 s on
    frames, (clip,) = shown(bytes(edited))
    assert clip.mode == "original"
    assert error(frames, decode(data).frames[5:]) == 0


@pytest.mark.parametrize("how", ["full", "packets"])
def test_frames_stored_with_decoding_times_out_of_order_are_shown_in_order(how):
    data = video(moving(), "flv", fps=10, options={"bf": "0", "flvflags": "no_duration_filesize"})
    frames, _ = shown(swapped_flv_times(data), accept=AcceptSettings(validate_by=how))
    assert error(frames, decode(data).frames) == 0


def swapped_flv_times(data):
    """The same FLV file with the decoding times of two tags swapped, what is shown unchanged."""
    tags, edited = flv_tags(data), bytearray(data)
    for here, other in ((tags[5], tags[6]), (tags[6], tags[5])):
        mine, wanted = (int.from_bytes(data[tag + 4 : tag + 7], "big") for tag in (here, other))
        shown_ms = mine + int.from_bytes(data[here + 13 : here + 16], "big", signed=True)
        edited[here + 4 : here + 7] = wanted.to_bytes(3, "big")
        edited[here + 13 : here + 16] = (shown_ms - wanted).to_bytes(3, "big", signed=True)
    return bytes(edited)


def flv_tags(data):
    """Where the pictures of an FLV file lie."""
    tags, at = [], 13
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if data[at] == 9 and data[at + 12] == 1:
            tags.append(at)
        at += 11 + size + 4
    return tags


def test_times_that_go_back_are_refused():
    data = video(moving(), "flv", fps=10, options={"bf": "0"})
    tag = flv_tags(data)[8]
    late = int.from_bytes(data[tag + 13 : tag + 16], "big", signed=True) - 250
    edited = data[: tag + 13] + late.to_bytes(3, "big", signed=True) + data[tag + 16 :]
    assert reason(edited) == "bad_timestamps"


# Streams


@pytest.mark.parametrize("cutting", [AUTO, ENCODED], ids=["kept", "encoded"])
def test_a_size_that_changes_inside_the_stream_is_refused(cutting):
    small, large = (
        video(noise(12, *size), "h264", options={"bf": "0"}) for size in ((48, 64), (96, 128))
    )
    assert reason(concatenated(small, large), cutting=cutting) == "size_changes"


@BOTH
def test_of_several_streams_the_largest_is_taken(cutting):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        streams = []
        for size in ((64, 48), (128, 96)):
            streams.append(out.add_stream("libx264", rate=10))
            streams[-1].width, streams[-1].height = size
            streams[-1].pix_fmt, streams[-1].options = "yuv420p", {"crf": "10"}
        for index in range(12):
            for stream, side in zip(streams, (1, 2), strict=True):
                pixels = np.ascontiguousarray(moving()[index].repeat(side, 0).repeat(side, 1))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                out.mux(stream.encode(frame.reformat(format="yuv420p")))
        for stream in streams:
            out.mux(stream.encode())
    frames, (clip,) = shown(file.getvalue(), cutting)
    assert frames.shape == (12, 96, 128, 3)
    assert clip.mode == ("transcode" if cutting is ENCODED else "original")


# Names


@pytest.mark.parametrize(
    "name",
    ["with space.mp4", "größe ünï 電影.mp4", "a#b?c%20&d.mp4", "new\nline.mp4", "-dash.mp4",
     "pipe:1.mp4", "x" * 240 + ".mp4"],
)  # fmt: skip
def test_a_name_is_only_a_name(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(encode_video(moving(), 8))
    found = scan(path, ACCEPT, AUTO)
    (clip,) = cut(path, found, spans(found, AUTO), AUTO, ACCEPT.limits())
    assert (found.num_frames, clip.data) == (12, path.read_bytes())


def test_a_picture_beside_a_video_is_told_apart_by_its_bytes():
    assert scan(encode_image(moving(1)[0]), ACCEPT).header.kind == "image"
    assert scan(video(moving(), "mpegts"), ACCEPT).header.kind == "video"
