"""What a decoder meets: codecs, pixel formats, geometry and light, and what comes out of them."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from infra import tone
from infra.video import decode
from pipelines.ingest_config import AcceptSettings
from pipelines.steps.scan import scan
from tests.infra.videos import (
    moving,
    video,
)
from tests.pipelines.outcomes import ACCEPT, BOTH, ENCODED, error, reason, shown

# Codecs and pixel formats


@BOTH
@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mp4", "libx265", "yuv420p"),
        ("webm", "libvpx", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("mp4", "libsvtav1", "yuv420p"),
        ("mpegts", "mpeg2video", "yuv420p"),
        ("mpeg", "mpeg1video", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("mov", "prores_ks", "yuv422p10le"),
        ("mxf", "mpeg2video", "yuv420p"),
        ("matroska", "ffv1", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("asf", "wmv2", "yuv420p"),
        ("flv", "flv", "yuv420p"),
        ("mov", "qtrle", "rgb24"),
        ("mov", "png", "rgb24"),
        ("avi", "rawvideo", "bgr24"),
    ],
)
def test_a_codec_comes_out_as_it_went_in(container, codec, pix_fmt, cutting):
    options = {"crf": "10"} if codec.startswith(("libx", "libsvt")) else {}
    options |= {"b": "4000000", "deadline": "good"} if codec.startswith("libvpx") else {}
    options |= {"qmin": "1", "qmax": "3"} if codec in QUANTISED else {}
    data = video(moving(), container, codec, pix_fmt, fps=25, options=options)
    frames, clips = shown(data, cutting)
    assert error(frames, moving()) < 6
    assert {clip.mode for clip in clips} == {"transcode" if cutting is ENCODED else "original"}
    for clip in clips:
        if cutting is ENCODED:
            assert (clip.found.header.codec, clip.found.header.pix_fmt) == ("h264", "yuv420p")


QUANTISED = ("mpeg2video", "mpeg1video", "mpeg4", "mjpeg", "wmv2", "flv")


@BOTH
@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt"),
    [
        ("mp4", "libx264", "yuv444p"),
        ("mp4", "libx264", "yuv422p"),
        ("mp4", "libx264", "yuvj420p"),
        ("mp4", "libx264", "gray"),
        ("mp4", "libx264", "yuv420p10le"),
        ("mp4", "libx265", "yuv420p10le"),
        ("matroska", "ffv1", "yuv444p16le"),
        ("matroska", "ffv1", "gray"),
        ("matroska", "ffv1", "gray16le"),
        ("matroska", "ffv1", "bgr0"),
        ("matroska", "ffv1", "gbrp10le"),
        ("mov", "prores_ks", "yuv444p10le"),
    ],
)
def test_a_pixel_format_comes_out_as_rgb(container, codec, pix_fmt, cutting):
    source = moving()
    if pix_fmt.startswith("gray"):
        source = source.mean(axis=3, keepdims=True).astype(np.uint8).repeat(3, axis=3)
    options = {"crf": "10"} if codec.startswith("lib") else {}
    frames, _ = shown(video(source, container, codec, pix_fmt, fps=25, options=options), cutting)
    assert error(frames, source) < 6


@BOTH
def test_a_palette_comes_out_as_rgb(cutting):
    colours = np.zeros((256, 4), np.uint8)
    colours[:4] = [(220, 30, 30, 255), (30, 220, 30, 255), (30, 30, 220, 255), (90, 90, 90, 255)]
    data, wanted = paletted(colours)
    frames, _ = shown(data, cutting)
    assert error(frames, wanted) < 6


def paletted(colours):
    """A QuickTime file of PNG pictures with a palette, and what they show."""
    file, wanted = io.BytesIO(), []
    with av.open(file, "w", format="mov") as out:
        stream = out.add_stream("png", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for index in range(4):
            picture = np.full((48, 64), 3, np.uint8)
            picture[8:40, 8 + index : 40] = index
            wanted.append(colours[picture][..., :3])
            argb = np.ascontiguousarray(colours[:, [3, 0, 1, 2]])
            out.mux(stream.encode(av.VideoFrame.from_ndarray((picture, argb), format="pal8")))
        out.mux(stream.encode())
    return file.getvalue(), np.stack(wanted)


@BOTH
def test_what_is_clear_lies_on_white(cutting):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        for index in range(4):
            pixels = np.zeros((48, 64, 4), np.uint8)
            pixels[:, : 16 + index, 3] = 255  # a black bar, the rest is clear
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgra")))
        out.mux(stream.encode())
    frames, _ = shown(file.getvalue(), cutting)
    assert frames[:, :, :12].max() < 16
    assert frames[:, :, 24:].min() > 240


# Turned, stretched, odd


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("sar", [None, Fraction(2, 1)])
@BOTH
def test_pictures_come_out_upright_with_square_pixels(rotation, sar, cutting):
    source = np.zeros((4, 48, 64, 3), np.uint8)
    source[:, :24, :32] = (250, 30, 30)
    source[:, 24:, :32] = (30, 250, 30)
    data = video(source, rotation=rotation, sar=sar, options={"crf": "5"})
    wide = source.repeat(2, axis=2) if sar else source
    wanted = np.rot90(wide, scan(data, ACCEPT).header.rotation // 90, axes=(1, 2))
    frames, (clip,) = shown(data, cutting)
    assert frames.shape == wanted.shape
    assert (clip.found.header.width, clip.found.header.height) == wanted.shape[2:0:-1]
    assert error(frames, wanted) < 8
    if cutting is ENCODED:
        assert (clip.found.header.rotation, clip.found.header.sar) == (0, 1)


def test_odd_sides_are_cut_to_even_ones_where_pixels_are_encoded():
    source = moving(height=47, width=63)
    data = video(source, "matroska", "ffv1", "bgr0")
    assert shown(data)[0].shape == source.shape
    frames, _ = shown(data, ENCODED)
    assert frames.shape == (12, 46, 62, 3)
    assert error(frames, source[:, :46, :62]) < 6  # cut, not squeezed


# Light


@pytest.mark.parametrize("transfer", [tone.PQ, tone.HLG])
def test_hdr_is_refused_or_mapped_by_policy(transfer):
    data = video(moving(), codec="libx265", pix_fmt="yuv420p10le", transfer=transfer, colorspace=9)
    assert reason(data) == "hdr"
    assert reason(data, AcceptSettings(validate_by="packets")) == "hdr"
    for how in ("full", "packets"):
        accept = AcceptSettings(hdr="tonemap", validate_by=how)
        frames, (clip,) = shown(data, accept=accept)
        header = clip.found.header
        assert (clip.mode, header.is_hdr, header.bit_depth) == ("transcode", False, 8)
        assert error(frames, decode(data).frames) < 6  # what readers of the source would see
        assert len(frames) == 12


@pytest.mark.parametrize("how", ["full", "packets"])
def test_interlaced_video_is_refused_or_deinterlaced_by_policy(how):
    fields = np.zeros((8, 96, 128, 3), np.uint8)
    for index in range(8):
        fields[index, 0::2, 10 + 8 * index : 40 + 8 * index] = 255
        fields[index, 1::2, 14 + 8 * index : 44 + 8 * index] = 255  # half a frame later
    data = video(fields, options={"x264-params": "interlaced=1:tff=1", "crf": "5"})
    assert reason(data, AcceptSettings(validate_by=how)) == "interlaced"
    accept = AcceptSettings(interlaced="deinterlace", validate_by=how)
    frames, (clip,) = shown(data, accept=accept)
    assert (clip.mode, clip.found.header.interlaced, len(frames)) == ("transcode", False, 8)
    combs = np.abs(np.diff(frames[2:-2].astype(int), axis=1)).mean()
    assert combs < np.abs(np.diff(decode(data).frames[2:-2].astype(int), axis=1)).mean() / 3
