"""Frames made plain for an encoder: what comes out is what readers would see of the source."""

import numpy as np
import pytest

from infra.plain import Plain
from infra.stills import Crop
from infra.video import Upright, decode, decoded, opened
from tests.infra.videos import moving, video


def plain_and_shown(data, **wanted):
    """The first plain picture as RGB, and the first frame as readers show it."""
    with opened(data) as (container, stream):
        frame = next(decoded(container, stream))
        plain = Plain(stream, frame, **wanted)
        (picture,) = plain.pictures([frame])
        side = max(plain.size) if wanted.get("height") else None
        seen = Upright(stream, side, wanted.get("crop"))(frame)
        shown = picture.reformat(format="rgb24", src_colorspace=plain.look.matrix).to_ndarray()
        return shown.astype(int), seen.astype(int), plain


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv444p", "gray", "yuv420p10le"])
def test_colours_are_those_that_readers_see(pix_fmt):
    shown, seen, _ = plain_and_shown(video(moving(3), pix_fmt=pix_fmt, options={"crf": "1"}))
    assert np.abs(shown - seen).mean() < 2


@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_the_matrix_of_the_source_is_kept(matrix):
    shown, seen, plain = plain_and_shown(video(moving(3), colorspace=matrix))
    assert plain.look.matrix == matrix
    assert np.abs(shown - seen).mean() < 2


@pytest.mark.parametrize("rotation", [None, 90, 180, 270])
def test_a_box_is_cut_out_of_the_displayed_picture(rotation):
    crop = Crop(8, 4, 32, 24)
    data = video(moving(3, height=64, width=96), rotation=rotation, options={"crf": "1"})
    shown, seen, plain = plain_and_shown(data, crop=crop)
    assert shown.shape == seen.shape == (24, 32, 3)
    assert plain.size == (32, 24)
    assert np.abs(shown - seen).mean() < 3


@pytest.mark.parametrize("rotation", [None, 90])
def test_a_height_shrinks_and_never_enlarges(rotation):
    data = video(moving(3, height=64, width=96), rotation=rotation, options={"crf": "1"})
    tall = 96 if rotation else 64
    shown, seen, plain = plain_and_shown(data, height=32)
    assert plain.size == (round(32 * (64 * 96 / tall) / tall) // 2 * 2, 32)
    assert np.abs(shown - seen[: shown.shape[0], : shown.shape[1]]).mean() < 12
    assert plain_and_shown(data, height=640)[2].size == ((64, 96) if rotation else (96, 64))


def test_readers_crop_what_they_decode_also_where_they_shrink_it():
    data = video(moving(3, height=64, width=96), options={"crf": "1"})
    whole = decode(data).frames
    crop = Crop(10, 6, 48, 32)
    assert np.array_equal(decode(data, crop=crop).frames, whole[:, 6:38, 10:58])
    assert decode(data, max_side=24, crop=crop).frames.shape == (3, 16, 24, 3)
