"""Black bars: found where they are, not where the picture is merely dark."""

import numpy as np
import pytest

from infra.stills import Crop
from infra.video import decode
from pipelines.ingest_config import AcceptSettings, CutSettings
from pipelines.steps.cut import cut
from pipelines.steps.scan import scan
from pipelines.steps.shots import spans
from tests.infra.videos import noise, video

ACCEPT = AcceptSettings()


def framed(top=0, bottom=0, left=0, right=0, frames=None):
    """Coloured blocks inside black bars."""
    inner = noise(12, 96, 128) // 2 + 90 if frames is None else frames
    return np.pad(inner, ((0, 0), (top, bottom), (left, right), (0, 0)))


def bars_of(frames, **how):
    return scan(video(frames, **how), ACCEPT, CutSettings(crop_bars=True)).bars


@pytest.mark.parametrize(
    ("edges", "box"),
    [
        ({"top": 16, "bottom": 16}, Crop(0, 16, 128, 96)),
        ({"left": 24, "right": 24}, Crop(24, 0, 128, 96)),
        ({"top": 16, "bottom": 16, "left": 24, "right": 8}, Crop(24, 16, 128, 96)),
        ({"top": 13, "bottom": 15}, Crop(0, 14, 128, 94)),
        ({}, Crop(0, 0, 128, 96)),
    ],
    ids=["letterbox", "pillarbox", "frame", "odd", "none"],
)
def test_bars_are_found_to_the_pixel_and_the_box_is_even(edges, box):
    assert bars_of(framed(**edges), options={"crf": "1"}) == box


@pytest.mark.parametrize(
    ("rotation", "box"),
    [(90, Crop(0, 8, 96, 128)), (-90, Crop(0, 24, 96, 128)), (180, Crop(24, 0, 128, 96))],
)
def test_bars_of_a_rotated_video_lie_where_they_are_shown(rotation, box):
    data = video(framed(left=8, right=24), rotation=rotation)
    found = scan(data, ACCEPT, CutSettings(crop_bars=True)).bars
    inside = decode(data, crop=found).frames.mean(axis=(0, 3))
    assert (found.w, found.h) == (box.w, box.h)
    assert inside.min() > 60
    assert found in (box, Crop(0, 160 - 128 - box.y, 96, 128))


def test_a_dark_scene_makes_no_bars():
    dark = framed(top=0)
    dark[:6, :30] = 5  # night sky in half of it
    assert bars_of(dark) == Crop(0, 0, 128, 96)
    night = np.full((12, 96, 128, 3), 6, np.uint8)
    assert bars_of(night) == Crop(0, 0, 128, 96)


def test_a_strip_of_light_is_no_picture_between_bars():
    assert bars_of(framed(top=112, bottom=112)) == Crop(0, 0, 128, 320)
    assert bars_of(framed(top=64, bottom=64)) == Crop(0, 64, 128, 96)


def test_a_picture_that_fades_into_darkness_at_its_edge_is_not_cut():
    slope = np.linspace(0, 200, 96).clip(0, 255)[None, :, None, None]
    soft = np.broadcast_to(slope, (12, 96, 128, 3)).astype(np.uint8)
    assert bars_of(soft) == Crop(0, 0, 128, 96)


def test_a_subtitle_inside_a_bar_is_kept():
    frames = framed(top=24, bottom=24)
    frames[6:9, 124:132, 40:90] = 230  # 24 + 96 = 120: the bar begins; text from 124 to 132
    box = bars_of(frames)
    assert (box.y, box.h) == (24, 132 - 24)


def test_a_box_is_recorded_where_packets_are_kept_and_applied_where_they_are_not():
    data = video(framed(top=16, bottom=16), options={"crf": "5"})
    for settings, mode, crop, size in (
        (CutSettings(crop_bars=True), "original", Crop(0, 16, 128, 96), (128, 128)),
        (CutSettings(crop_bars=True, encode="transcode"), "transcode", Crop(0, 0, 128, 96),
         (128, 96)),
        (CutSettings(), "original", Crop(0, 0, 128, 128), (128, 128)),
    ):  # fmt: skip
        found = scan(data, ACCEPT, settings)
        (clip,) = cut(data, found, spans(found, settings), settings, ACCEPT.limits())
        header = clip.found.header
        assert (clip.mode, clip.crop, (header.width, header.height)) == (mode, crop, size)
        shown = decode(clip.data, crop=clip.crop).frames
        assert shown.shape[1:3] == (crop.h, crop.w)
        if settings.crop_bars:
            wanted = framed().astype(int)
            assert np.abs(shown - wanted).mean() < 8
