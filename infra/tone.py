"""High dynamic range pictures for ordinary screens: PQ and HLG to the light of BT.709.

A signal is turned into light (ST 2084 or BT.2100 HLG on its reference display), the light above
what an ordinary screen shows is rolled off by the curve of BT.2390, colours go from BT.2020 to
BT.709 primaries, and light becomes an sRGB signal. The roll-off acts on each channel, which takes
the colour out of highlights as film does. Diffuse white (203 cd/m2, BT.2408) becomes white; the
mastering display is taken to reach 1000 cd/m2, since most material is graded for that. All that
depends on one channel alone is looked up in tables of 65,536 entries.
"""

import functools

import numpy as np
import numpy.typing as npt

from infra.stills import HLG as HLG
from infra.stills import PQ as PQ
from infra.stills import Frames

Light = npt.NDArray[np.float64]

_WHITE_NITS, _PEAK_NITS, _PQ_NITS = 203.0, 1000.0, 10_000.0

# SMPTE ST 2084, equations 4.1 to 5.2
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32

# ARIB STD-B67 / BT.2100 table 5
_A = 0.17883277
_B, _C = 1 - 4 * _A, 0.5 - _A * float(np.log(4 * _A))
_GAMMA = 1.2  # of a display that reaches 1000 cd/m2
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020 primaries

BT2020_TO_BT709 = np.array(  # ITU-R BT.2087, the inverse of its equation 1
    [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ]
)
_STEPS = 65_535


def pq_light(signal: Light) -> Light:
    """Return the light in cd/m2 of PQ signals in [0, 1]."""
    root = np.clip(signal, 0, 1) ** (1 / _M2)
    light: Light = _PQ_NITS * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)
    return light


def pq_signal(light: Light) -> Light:
    """Return the PQ signals in [0, 1] of light in cd/m2."""
    power = (np.clip(light, 0, _PQ_NITS) / _PQ_NITS) ** _M1
    signal: Light = ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
    return signal


def hlg_scene(signal: Light) -> Light:
    """Return the scene's light in [0, 1] of HLG signals in [0, 1]."""
    low = signal**2 / 3
    high = (np.exp((np.maximum(signal, 0.5) - _C) / _A) + _B) / 12
    return np.where(signal <= 0.5, low, high)


def rolled_off(light: Light) -> Light:
    """Return light of at most 203 cd/m2, unchanged where dark (BT.2390, section 5.4.1)."""
    top = pq_signal(np.array(_PEAK_NITS))
    limit = float(pq_signal(np.array(_WHITE_NITS)) / top)
    knee = 1.5 * limit - 0.5
    level = np.minimum(pq_signal(light) / top, 1)
    share = np.clip((level - knee) / (1 - knee), 0, 1)
    bent = (
        (2 * share**3 - 3 * share**2 + 1) * knee
        + (share**3 - 2 * share**2 + share) * (1 - knee)
        + (-2 * share**3 + 3 * share**2) * limit
    )
    return pq_light(np.where(level < knee, level, bent) * top)


def mapped(pixels: npt.NDArray[np.uint16], transfer: int) -> Frames:
    """Return a picture of BT.2020 signals [H,W,3], 16 bits full range, as sRGB [H,W,3]."""
    if transfer == PQ:
        light = _pq_table()[pixels]
    else:
        scene = _hlg_table()[pixels]
        gain = np.maximum(scene @ _LUMINANCE.astype(np.float32), 1e-6) ** np.float32(_GAMMA - 1)
        display = np.sqrt(np.minimum(scene * gain[..., None], 1))
        light = _display_table()[(display * _STEPS + 0.5).astype(np.uint16)]
    narrow = np.clip(light @ BT2020_TO_BT709.T.astype(np.float32), 0, 1)
    return _srgb_table()[(np.sqrt(narrow) * _STEPS + 0.5).astype(np.uint16)]


def _axis() -> Light:
    return np.arange(_STEPS + 1) / _STEPS


@functools.cache
def _pq_table() -> npt.NDArray[np.float32]:
    """From signals to light as a share of white, rolled off."""
    return (rolled_off(pq_light(_axis())) / _WHITE_NITS).astype(np.float32)


@functools.cache
def _hlg_table() -> npt.NDArray[np.float32]:
    return hlg_scene(_axis()).astype(np.float32)


@functools.cache
def _display_table() -> npt.NDArray[np.float32]:
    """From the square root of light (dark steps are finer) to light rolled off."""
    return (rolled_off(_axis() ** 2 * _PEAK_NITS) / _WHITE_NITS).astype(np.float32)


@functools.cache
def _srgb_table() -> Frames:
    """From the square root of light to the signals of IEC 61966-2-1."""
    light = _axis() ** 2
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (signal * 255 + 0.5).astype(np.uint8)
