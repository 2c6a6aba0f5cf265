"""The classical judge of the demo's clips: what is seen, without anything learned.

The backgrounds are grey, so the object is what has colour: pixels are compared with the
background's median in the chroma plane, the largest connected component is followed from
frame to frame, and a straight line is fitted to its centroids. Colour is the nearest of the
palette, size an area, shape the best of three drawn references, background a brightness.
A clip in which nothing is found is wrong in every attribute, and motion that no straight line
explains is no direction; a judge that is kind to noise would be worth nothing.

    found = detect(frames)               # uint8 [T, H, W, 3], 24x32 px or more
    rates = accuracy([(truth, found.attributes)])
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from train.metrics import shapes
from train.metrics.attributes import (
    BACKGROUNDS,
    CHOICES,
    COLOURS,
    SHAPES,
    SIZES,
    Attributes,
    agreement,
)

Floats = NDArray[np.floating[Any]]

_MIN_CHROMA = 28.0  # of about 200 for the palette; compression leaves less than 20 in a grey
_EDGE = 0.5  # share of the object's chroma at which a pixel counts as object
_MIN_AREA = 0.012  # of the frame; a small object has 0.05 at 4:3
_MAX_AREA = 0.4  # of the frame; a large object has 0.15
_MIN_SHARE = 0.6  # of all coloured pixels that one object must hold; noise is many pieces
_MIN_TRAVEL = 0.12  # of the free path; a slow object crosses 0.50 of it
_MIN_FIT = 0.5  # share of the centroid's variance that the line must explain
_LEVELS = (33.0, 62.0)  # between the mean brightness of gradient, plain and checkered backgrounds
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Detection:
    """What a clip shows; nothing is set where no object was found."""

    found: bool
    attributes: Attributes
    travel: float = 0.0
    """Share of the free path crossed from the first frame to the last, along the main axis."""


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval and the count behind it."""

    value: float
    low: float
    high: float
    num: int


@dataclass(frozen=True)
class _Track:
    """The object over the frames in which it is seen."""

    index: NDArray[np.intp]
    centre: Floats
    area: Floats
    masks: Floats
    rgb: Floats


def detect(frames: NDArray[np.uint8], share: float = 1.0) -> Detection:
    """Return what a clip shows.

    Args:
        frames: uint8 [T, H, W, 3] sRGB; one frame shows a still.
        share: How much of a corpus shot the frames span in time, by which speed is judged:
            first to last frame over the length of a shot.
    """
    track = _follow(frames.astype(np.float64))
    if track is None or 2 * len(track.index) < len(frames):
        return Detection(False, Attributes())
    height, width = frames.shape[1:3]
    diameter = float(np.sqrt(4 * np.median(track.area) / np.pi))
    boundary = float(np.sqrt(np.prod(list(SIZES.values()))))
    size = tuple(SIZES)[int(diameter / min(height, width) > boundary)]
    shape = _shape(track, size)
    direction, travel = _motion(track, shape, diameter, len(frames), (width, height))
    speed = None
    if direction is not None:
        slow, quick = shapes.TRAVEL["slowly"], shapes.TRAVEL["quickly"]
        speed = "quickly" if travel > share * (slow + quick) / 2 else "slowly"
    colour, background = _colour(track.rgb), _background(frames, track)
    return Detection(True, Attributes(colour, shape, size, direction, speed, background), travel)


def reduced(
    frames: NDArray[np.uint8], num_frames: int, width: int, height: int
) -> NDArray[np.uint8]:
    """Return a clip [T, H, W, 3] at the geometry of samples, so that the judge is checked there.

    Frames are evenly spaced from the first to the last; pixels are averaged over their area.
    """
    times = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
    rows, columns = _area_weights(frames.shape[1], height), _area_weights(frames.shape[2], width)
    flat = np.einsum("yh,thwc->tywc", rows, frames[times].astype(np.float64))
    small = np.einsum("xw,tywc->tyxc", columns, flat)
    return np.asarray(np.rint(small), np.uint8)


def wilson(successes: int, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (E. B. Wilson, 1927); (0, 1) when nothing was tried."""
    if num == 0:
        return 0.0, 1.0
    share, z2 = successes / num, _Z95**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    spread = _Z95 / (1 + z2 / num) * np.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    return max(0.0, float(centre - spread)), min(1.0, float(centre + spread))


def accuracy(pairs: Iterable[tuple[Attributes, Attributes]]) -> dict[str, Rate]:
    """Return, by attribute, how often what was found is the truth.

    Args:
        pairs: (truth, found); an attribute that a truth lacks is not counted for that pair.
            `all` counts a pair as right when every attribute of its truth is.
    """
    right: dict[str, list[bool]] = {name: [] for name in (*CHOICES, "all")}
    for truth, found in pairs:
        verdicts = agreement(truth, found)
        for name, verdict in verdicts.items():
            right[name].append(verdict)
        right["all"].append(all(verdicts.values()))
    return {name: _rate(verdicts) for name, verdicts in right.items() if verdicts}


def _area_weights(num_in: int, num_out: int) -> Floats:
    """Return the share [num_out, num_in] that each old pixel has in each new one."""
    edges = np.arange(num_out + 1) * num_in / num_out
    left, right = np.arange(num_in), np.arange(num_in) + 1
    overlap: Floats = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    return np.maximum(overlap, 0) * (num_out / num_in)


def _rate(verdicts: list[bool]) -> Rate:
    low, high = wilson(sum(verdicts), len(verdicts))
    return Rate(sum(verdicts) / len(verdicts), low, high, len(verdicts))


def _follow(frames: Floats) -> _Track | None:
    """Find the object in every frame; None where no frame shows one."""
    chroma = _opponent(frames)
    chroma -= np.median(chroma.reshape(-1, 2), axis=0)
    strength = np.linalg.norm(chroma, axis=-1)
    num_object_px = max(1, int(_MIN_AREA * strength[0].size))
    full = np.sort(strength.reshape(len(frames), -1), axis=1)[:, -num_object_px:].mean(1)
    level = max(float(np.median(full)), 2 * _MIN_CHROMA)
    seen = [(i, mask) for i, s in enumerate(strength) if (mask := _object(s, level)) is not None]
    if not seen:
        return None
    index, masks = np.array([i for i, _ in seen]), np.stack([mask for _, mask in seen])
    y, x = np.mgrid[: masks.shape[1], : masks.shape[2]] + 0.5
    area = masks.sum((1, 2))
    centre = np.stack([(masks * x).sum((1, 2)), (masks * y).sum((1, 2))], 1) / area[:, None]
    core = masks * (masks > 0.8 * masks.max((1, 2), keepdims=True))
    rgb = (core[..., None] * frames[index]).sum((1, 2)) / core.sum((1, 2))[:, None]
    return _Track(index, centre, area, masks, rgb)


def _opponent(rgb: Floats) -> Floats:
    """Turn sRGB [..., 3] into the red-green and yellow-blue axes [..., 2]; a grey has (0, 0)."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([(red - green) / 2**0.5, ((red + green) / 2 - blue) / 1.5**0.5], axis=-1)


def _object(strength: Floats, level: float) -> Floats | None:
    """Return how much of each pixel is the object [H, W], None if there is none."""
    labels, num_labels = ndimage.label(strength > _EDGE * level)
    if num_labels == 0:
        return None
    sizes = ndimage.sum_labels(np.ones_like(strength), labels, np.arange(1, num_labels + 1))
    largest = float(sizes.max())
    if not _MIN_AREA <= largest / strength.size <= _MAX_AREA or largest < _MIN_SHARE * sizes.sum():
        return None
    body = labels == 1 + int(np.argmax(sizes))
    near = ndimage.binary_dilation(body, structure=np.ones((3, 3)))
    full = np.median(strength[body])
    share: Floats = np.where(near, np.clip(strength / full, 0, 1), 0)
    return np.where(share > 0.15, share, 0)


def _motion(
    track: _Track, shape: str, diameter: float, num_frames: int, frame_px: tuple[int, int]
) -> tuple[str | None, float]:
    """Return the direction and the share of the free path crossed; None if at rest or erratic."""
    if len(track.index) < 2:
        return None, 0.0
    time = track.index - track.index.mean()
    slope = time @ track.centre / (time @ time)
    axis = int(np.argmax(np.abs(slope)))
    direction = (("left", "right"), ("up", "down"))[axis][int(slope[axis] > 0)]
    path = shapes.free_path(shape, diameter, direction, *frame_px)
    travel = abs(float(slope[axis])) * (num_frames - 1) / max(path, 1.0)
    spread = track.centre - track.centre.mean(0)
    rest = spread - time[:, None] * slope
    explained = 1 - float((rest**2).sum() / max((spread**2).sum(), 1e-9))
    if travel < _MIN_TRAVEL or explained < _MIN_FIT:
        return None, travel
    return direction, travel


def _shape(track: _Track, size: str) -> str:
    """Return the shape whose drawing at the object's place is nearest to what is seen."""
    height, width = track.masks.shape[1:]
    errors = dict.fromkeys(SHAPES, 0.0)
    for shape in SHAPES:
        for mask, area, (x, y) in zip(track.masks, track.area, track.centre, strict=True):
            own = float(np.sqrt(4 * area / np.pi))
            drawn = shapes.coverage(shape, own, (float(x), float(y)), width, height)
            errors[shape] += float(((drawn - mask) ** 2).sum())
    return min(errors, key=errors.__getitem__)


def _colour(rgb: Floats) -> str:
    """Return the palette's name nearest in chroma to the object's median colour."""
    palette = _opponent(np.array(list(COLOURS.values()), np.float64))
    seen = _opponent(np.median(rgb, axis=0))
    return tuple(COLOURS)[int(np.argmin(np.linalg.norm(palette - seen, axis=1)))]


def _background(frames: NDArray[np.uint8], track: _Track) -> str:
    """Return the background whose brightness is nearest outside the object."""
    outside = ~ndimage.binary_dilation(track.masks > 0, structure=np.ones((1, 3, 3)))
    level = float(frames[track.index].mean(-1)[outside].mean()) if outside.any() else 0.0
    plain, dark, light = BACKGROUNDS
    return dark if level < _LEVELS[0] else plain if level < _LEVELS[1] else light
