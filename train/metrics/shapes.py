"""The renderer of the demo's clips: one coloured shape that moves or rests, as pixels.

A pure function of attributes, seed and times: the same scene can be drawn at any size and
any frame rate, so that the corpus draws 64x48 sources, the judge draws its references at
the size of what it judges, and a trial draws its training clips directly.

    scene = sample_scene(attributes, seed=7)
    frames = draw(scene, times=np.linspace(0, 1, 8), width=16, height=12)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.metrics.attributes import COLOURS, SIZES, STEPS, Attributes

TRAVEL: dict[str, float] = {"slowly": 0.40, "quickly": 0.55}
"""Share of the free path that an object crosses from the first frame of a clip to the last."""

START_SPREAD = 0.1
"""Share of the free path, around its middle, within which motion begins.

Were the start anywhere, left and right would have the same mean over time, and a small model
would need far longer to find out that the word for the direction matters (train/LOG.md)."""

_TONES: dict[str, tuple[float, float]] = {
    "plain charcoal": (46, 46),
    "black gradient": (4, 36),
    "grey checkered": (60, 96),
}
"""Grey levels of each background: its darkest and its lightest.

All are darker than every colour of the palette. Were objects as often darker as brighter than
what is behind them, the mean clip of a direction would be the mean clip of all (its squared
distance from it was 0.08e-3 so, and is 6e-3 now), and a small model would not find out that the
word for the direction matters."""

_CELLS_PER_HEIGHT = 5
_COLOUR_JITTER = 10
_ROOT3 = 3.0**0.5

Mask = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scene:
    """All that fixes a clip except its size and its times; shares, not pixels.

    Attributes:
        attributes: What is seen; colour, shape, size and background are set.
        rgb: The object's colour, the palette's with a little jitter.
        start: Where in the free path (0 to 1 in x and y) the object's centre begins.
        step: How far it goes from time 0 to time 1, in shares of the free path.
        phase: Angle of the gradient and shift of the chequers, 0 to 1.
    """

    attributes: Attributes
    rgb: tuple[float, float, float]
    start: tuple[float, float]
    step: tuple[float, float]
    phase: tuple[float, float]


def sample_scene(
    attributes: Attributes, seed: int, travel: dict[str, float] | None = None
) -> Scene:
    """Return a random scene that shows `attributes`; the same for the same seed.

    Args:
        attributes: Colour, shape, size and background are set; a direction needs a speed.
        seed: Decides the start, the colour's jitter and the background's phase.
        travel: Share of the free path crossed at each speed; `TRAVEL` unless told.
    """
    assert attributes.colour is not None, "a scene shows a colour"
    random = np.random.default_rng(seed)
    rgb = np.array(COLOURS[attributes.colour]) + random.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, 3)
    step = np.zeros(2)
    if attributes.direction is not None:
        assert attributes.speed is not None, "motion has a speed"
        step = np.array(STEPS[attributes.direction]) * (travel or TRAVEL)[attributes.speed]
    anywhere = random.uniform(0, 1, 2)
    middle = 0.5 + START_SPREAD * (anywhere - 0.5)
    inside = np.clip(middle, np.maximum(-step, 0), 1 - np.maximum(step, 0))
    start = np.where(step == 0, anywhere, inside)
    phase = random.uniform(0, 1, 2)
    return Scene(attributes, _triple(rgb.clip(0, 255)), _pair(start), _pair(step), _pair(phase))


def draw(scene: Scene, times: Mask, width: int, height: int) -> NDArray[np.uint8]:
    """Return frames [T, H, W, 3] of the scene.

    Args:
        scene: What to draw.
        times: When, [T]; 0 is the clip's first frame and 1 its last.
        width: In pixels.
        height: In pixels; sizes are shares of the shorter side.
    """
    shape, size = scene.attributes.shape, scene.attributes.size
    assert shape is not None, "a scene shows a shape"
    assert size is not None, "a shape has a size"
    diameter = SIZES[size] * min(width, height)
    left, right, top, bottom = _extents(shape, diameter)
    ground = _background(scene, width, height)
    frames = np.empty((len(times), height, width, 3), np.uint8)
    for index, time in enumerate(times):
        share_x, share_y = np.array(scene.start) + np.array(scene.step) * time
        centre_x = left + share_x * (width - left - right)
        centre_y = top + share_y * (height - top - bottom)
        mask = coverage(shape, diameter, (centre_x, centre_y), width, height)[..., None]
        frames[index] = np.rint(ground * (1 - mask) + np.array(scene.rgb) * mask)
    return frames


def clip(
    attributes: Attributes,
    seed: int,
    num_frames: int = 16,
    width: int = 64,
    height: int = 48,
    travel: dict[str, float] | None = None,
) -> NDArray[np.uint8]:
    """Return one whole random clip [T, H, W, 3] of `attributes` (see `sample_scene`, `draw`)."""
    times = np.linspace(0, 1, num_frames) if num_frames > 1 else np.zeros(1)
    return draw(sample_scene(attributes, seed, travel), times, width, height)


def coverage(
    shape: str, diameter: float, centre: tuple[float, float], width: int, height: int
) -> Mask:
    """Return the share of each pixel [H, W] that a shape covers (anti-aliased).

    Args:
        shape: One of `SHAPES`; the centre is its centroid, triangles point up.
        diameter: Of the circle of equal area, in pixels.
        centre: x and y in pixels; the corner of the first pixel is (0, 0).
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
    """
    x = np.arange(width)[None, :] + 0.5 - centre[0]
    y = np.arange(height)[:, None] + 0.5 - centre[1]
    if shape == "circle":
        inside = diameter / 2 - np.hypot(x, y)
        return _slab(inside)
    if shape == "square":
        half = _square_side(diameter) / 2
        return _slab(half - x) * _slab(half + x) * _slab(half - y) * _slab(half + y)
    height_px = _triangle_side(diameter) * _ROOT3 / 2
    apex = y + height_px * 2 / 3
    sides = _slab((apex - _ROOT3 * np.abs(x)) / 2)
    return sides * _slab(height_px / 3 - y)


def free_path(shape: str, diameter: float, direction: str, width: int, height: int) -> float:
    """Return how far, in pixels, a shape can go along a direction without leaving the frame."""
    left, right, top, bottom = _extents(shape, diameter)
    return width - left - right if STEPS[direction][0] else height - top - bottom


def _slab(inside_px: Mask) -> Mask:
    """Turn the distance inside an edge into the share of a pixel on its inner side."""
    share: Mask = np.clip(inside_px + 0.5, 0, 1)
    return share


def _square_side(diameter: float) -> float:
    return float(diameter * np.sqrt(np.pi) / 2)


def _triangle_side(diameter: float) -> float:
    return float(diameter * np.sqrt(np.pi / _ROOT3))


def _extents(shape: str, diameter: float) -> tuple[float, float, float, float]:
    """Return how far a shape reaches from its centroid: left, right, up, down."""
    if shape == "circle":
        return (diameter / 2,) * 4
    if shape == "square":
        return (_square_side(diameter) / 2,) * 4
    side = _triangle_side(diameter)
    return side / 2, side / 2, side / _ROOT3, side / _ROOT3 / 2


def _background(scene: Scene, width: int, height: int) -> Mask:
    kind = scene.attributes.background
    assert kind is not None, "a scene has a background"
    dark, light = _TONES[kind]
    x = (np.arange(width)[None, :] + 0.5) / height
    y = (np.arange(height)[:, None] + 0.5) / height
    if kind == "black gradient":
        angle = 2 * np.pi * scene.phase[0]
        ramp = x * np.cos(angle) + y * np.sin(angle)
        level = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    elif kind == "grey checkered":
        cell_px = height / _CELLS_PER_HEIGHT
        column = _stripes(np.arange(width) + 2 * cell_px * scene.phase[0], cell_px)
        row = _stripes(np.arange(height) + 2 * cell_px * scene.phase[1], cell_px)
        level = 0.5 + 0.5 * column[None, :] * row[:, None]
    else:
        level = np.zeros((height, width))
    return np.repeat((dark + (light - dark) * level)[..., None], 3, axis=2)


def _stripes(left_px: Mask, cell_px: float) -> Mask:
    """Return +1 and -1 in turns every `cell_px`, averaged over each pixel."""

    def area(edge_px: Mask) -> Mask:
        inside = np.mod(edge_px, 2 * cell_px)
        return np.where(inside < cell_px, inside, 2 * cell_px - inside)

    return area(left_px + 1) - area(left_px)


def _pair(values: Mask) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _triple(values: Mask) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
