"""Tone mapping against the numbers of the standards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import tone


def grey(signal, shape=(2, 3)):
    return np.full((*shape, 3), round(signal * 65535), np.uint16)


@pytest.mark.parametrize(
    ("signal", "nits"),
    [(0.0, 0.0), (0.508078, 100.0), (0.751827, 1000.0), (0.902572, 4000.0), (1.0, 10_000.0)],
)
def test_pq_is_that_of_st_2084(signal, nits):
    assert tone.pq_light(np.array(signal)) == pytest.approx(nits, rel=1e-4, abs=1e-9)
    assert tone.pq_signal(np.array(nits)) == pytest.approx(signal, abs=1e-5)


@pytest.mark.parametrize(("signal", "light"), [(0, 0), (0.5, 1 / 12), (0.75, 0.26496), (1, 1)])
def test_hlg_is_that_of_bt_2100(signal, light):
    assert tone.hlg_scene(np.array(float(signal))) == pytest.approx(light, abs=1e-4)


def test_reference_white_of_hlg_is_that_of_bt_2408():
    """75 % HLG on a display of 1000 cd/m2 gives 203 cd/m2."""
    assert 1000 * tone.hlg_scene(np.array(0.75)) ** 1.2 == pytest.approx(203, abs=0.5)


def test_white_stays_white_between_the_primaries():
    assert tone.BT2020_TO_BT709.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)


def test_the_matrix_undoes_that_of_bt_2087():
    forward = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    assert tone.BT2020_TO_BT709 @ forward == pytest.approx(np.eye(3), abs=1e-3)


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_the_roll_off_keeps_the_order_of_light_and_never_passes_white(one, other):
    low, high = tone.rolled_off(np.array(sorted([one, other])))
    assert low <= high + 1e-9
    assert high <= 203 * (1 + 1e-9)


def test_the_mastering_display_s_peak_becomes_white():
    assert tone.rolled_off(np.array([1000.0, 10_000.0])) == pytest.approx([203, 203])
    assert tone.rolled_off(np.array(990.0)) < 203


@given(st.floats(0, 38))
def test_dark_light_is_not_rolled_off(light):
    assert tone.rolled_off(np.array(light)) == pytest.approx(light, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("transfer", [tone.PQ, tone.HLG])
def test_grey_stays_grey_and_gets_brighter_with_the_signal(transfer):
    steps = [tone.mapped(grey(signal), transfer)[0, 0] for signal in np.linspace(0, 1, 33)]
    values = np.array(steps, int)
    assert (np.ptp(values, axis=1) <= 1).all()
    assert (np.diff(values[:, 0]) >= 0).all()
    assert (values[0, 0], values[-1, 0]) == (0, 255)


def test_pq_and_hlg_of_the_same_light_look_alike():
    """203 cd/m2 is 58 % PQ and 75 % HLG (BT.2408)."""
    pq, hlg = tone.mapped(grey(0.58), tone.PQ), tone.mapped(grey(0.75), tone.HLG)
    assert np.abs(pq.astype(int) - hlg).max() <= 2
    assert 210 < pq.mean() < 245


def test_a_green_beyond_bt_709_stays_green():
    pixels = np.zeros((1, 1, 3), np.uint16)
    pixels[..., 1] = 30_000
    red, green, blue = tone.mapped(pixels, tone.PQ)[0, 0].tolist()
    assert green > 80
    assert (red, blue) == (0, 0)
