"""Signal scores of clips that were made to have them."""

import cv2
import numpy as np
import pytest

from infra.video import encode_image
from pipelines.ingest_config import AcceptSettings, CutSettings
from pipelines.scores.signals import measure, over_space, over_time
from pipelines.scores.text_area import text_share
from pipelines.scores.versions import expected
from pipelines.steps.scan import scan
from tests.infra.videos import moving, video
from tests.pipelines.scores.pictures import TEXTURES, WORDS, sliding, textured, written

FOLIAGE = textured("foliage", 0, 96, 160)


def scored(data):
    return measure(data, scan(data, AcceptSettings()))


def still(picture, num_frames=20, **more):
    return video(np.stack([picture] * num_frames), **more)


def test_every_clip_gets_every_score_of_its_kind():
    assert tuple(sorted(scored(sliding()))) == tuple(sorted(expected("video")))
    image = encode_image(FOLIAGE)
    assert tuple(sorted(scored(image))) == tuple(sorted(expected("image")))
    assert tuple(sorted(scored(still(FOLIAGE, 1)))) == tuple(sorted(expected("video")))


def test_motion_is_told_in_picture_sides_a_second():
    crossing = scored(video(moving(12), fps=10))  # from side to side less its width in 1.1 s
    assert crossing["motion"] == pytest.approx(0.75 / 1.1, rel=0.3)
    slow = scored(sliding(40, 1, 10))["motion"]  # 10 of 160 px a second
    assert slow == pytest.approx(10 / 160, rel=0.4)


def test_faster_is_more_and_the_frame_rate_does_not_count():
    speeds = [scored(sliding(40, step, 30))["motion"] for step in (0, 1, 2, 4)]
    assert speeds == sorted(speeds)
    assert speeds[0] == pytest.approx(0.0, abs=0.005)
    twice = scored(sliding(40, 4, 15))["motion"]
    assert twice == pytest.approx(speeds[2], rel=0.2)


def test_contrast_does_not_count_as_motion():
    plain = np.stack([FOLIAGE[:, 3 * i : 3 * i + 100] for i in range(20)])
    faint = (plain.astype(float) * 0.3 + 90).astype(np.uint8)
    assert scored(video(faint))["motion"] == pytest.approx(scored(video(plain))["motion"], rel=0.2)


def test_a_cut_a_fade_and_a_flash_are_no_motion():
    cut = np.stack([FOLIAGE] * 10 + [textured("discs", 1, 96, 160)] * 10)
    fade = np.stack([(FOLIAGE * (i / 20)).astype(np.uint8) for i in range(1, 21)])
    flash = np.stack([FOLIAGE if i % 2 else FOLIAGE // 2 for i in range(20)])
    for frames in (cut, fade, flash):
        assert scored(video(frames))["motion"] < 0.05


def test_colour_that_moves_on_grey_of_its_brightness_is_motion():
    assert scored(video(moving(12, (220, 30, 30), (90, 90, 90))))["motion"] > 0.3


def test_static_share_is_the_part_of_the_time_in_which_nothing_moves():
    frames = [FOLIAGE[:, :120]] * 15 + [FOLIAGE[:, i : i + 120] for i in range(1, 16)]
    assert scored(video(np.stack(frames)))["static_share"] == pytest.approx(0.5, abs=0.07)
    assert scored(still(FOLIAGE))["static_share"] == 1.0


def test_flicker_is_the_jump_to_and_fro_and_a_fade_has_none():
    flash = np.stack([FOLIAGE if i % 2 else FOLIAGE // 2 for i in range(20)])
    jump = FOLIAGE.mean() / 255 - (FOLIAGE // 2).mean() / 255
    assert scored(video(flash))["flicker"] == pytest.approx(jump, rel=0.1)
    fade = np.stack([(FOLIAGE * (i / 20)).astype(np.uint8) for i in range(20)])
    assert scored(video(fade))["flicker"] < 0.002


@pytest.mark.parametrize("grey", [0, 64, 255])
def test_brightness_is_that_of_the_picture(grey):
    found = scored(still(np.full((96, 160, 3), grey, np.uint8)))
    assert found["brightness"] == pytest.approx(grey / 255, abs=0.02)
    assert found["contrast"] < 0.01
    assert found["detail"] < 0.01


def test_contrast_of_a_picture_of_two_halves_is_half_their_difference():
    halves = np.full((96, 160, 3), 40, np.uint8)
    halves[:, 80:] = 200
    assert scored(still(halves))["contrast"] == pytest.approx(80 / 255, rel=0.05)


def test_detail_is_that_of_the_middle_frame_alone():
    flat = np.full_like(FOLIAGE, 128)
    found = scored(video(np.stack([FOLIAGE] * 8 + [flat] * 5 + [FOLIAGE] * 8)))
    assert found["detail"] < 0.01 < found["contrast"]


def test_blur_takes_sharpness():
    bricks = textured("bricks")
    values = [
        scored(still(cv2.GaussianBlur(bricks, (0, 0), sigma), 3))["sharpness"]
        for sigma in (0.1, 1, 3, 9)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 10 * values[-1]


@pytest.mark.parametrize(("height", "width"), [(45, 0), (0, 80), (30, 40)])
def test_black_borders_are_measured_and_a_black_picture_has_none(height, width):
    picture = textured("foliage")
    framed = np.zeros_like(picture)
    rows, columns = slice(height, 360 - height), slice(width, 640 - width)
    framed[rows, columns] = picture[rows, columns]
    share = 1 - (360 - 2 * height) * (640 - 2 * width) / (360 * 640)
    assert scored(still(framed, 5))["bar_share"] == pytest.approx(share, abs=0.02)
    assert scored(still(np.zeros_like(picture), 5))["bar_share"] == 0.0


def test_key_frames_of_another_size_are_left_out_of_the_borders():
    framed = np.zeros_like(FOLIAGE)
    framed[24:-24] = FOLIAGE[24:-24]
    found = over_space([framed, FOLIAGE[:, :80], framed])
    assert found["bar_share"] == over_space([framed])["bar_share"] == pytest.approx(0.5, abs=0.02)


def test_words_are_found_and_textures_are_not_taken_for_words():
    """Of made pictures: 95 % of what is called text is text, and 75 % of text is found."""
    empty = [text_share(textured(kind, seed)[..., 1]) for kind in TEXTURES for seed in range(10)]
    found = []
    for kind in TEXTURES:
        for seed, words in enumerate(WORDS):
            for size_px in (14, 20, 28, 48):
                picture, share = written(textured(kind, seed), words, size_px)
                found.append((text_share(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)), share))
    hits = sum(value > 0.003 for value, _ in found)
    wrong = sum(value > 0.003 for value in empty)
    assert hits / len(found) >= 0.7
    assert hits / (hits + wrong) >= 0.9


def test_the_area_of_words_is_that_of_their_boxes():
    ratios = []
    for seed, words in enumerate(WORDS):
        for size_px in (20, 28, 48):
            picture, share = written(textured("waves", seed), words, size_px)
            ratios.append(scored(still(picture, 3))["text_area"] / share)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.25)


def test_a_scan_of_packets_leaves_out_what_key_frames_cannot_tell():
    data = sliding(90, 1, 30, options={"g": "30"})
    seen = scan(data, AcceptSettings(validate_by="packets"), CutSettings())
    assert seen.validated_by == "packets"
    found = measure(data, seen)
    assert "motion" not in found
    assert found["sharpness"] == scored(data)["sharpness"]


def test_a_variable_frame_rate_changes_no_speed():
    times = np.cumsum(np.tile([0.02, 0.06], 20)) - 0.02
    frames = np.stack([FOLIAGE[:, round(20 * t) : round(20 * t) + 100] for t in times])
    even = np.stack([FOLIAGE[:, round(20 * t) : round(20 * t) + 100] for t in np.arange(40) * 0.04])
    uneven, usual = over_time(thumbs(frames), times), over_time(thumbs(even), np.arange(40) * 0.04)
    assert uneven["motion"] == pytest.approx(usual["motion"], rel=0.3)


def thumbs(frames):
    return np.stack([cv2.resize(f, (16, 16), interpolation=cv2.INTER_AREA) for f in frames])
