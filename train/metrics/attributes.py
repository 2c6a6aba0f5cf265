"""What a demo clip shows, in words: the palette, the caption templates and their reading.

A clip of the demo's corpus is described by six attributes, so that captions and generated
videos can be judged without a learned model. Captions are written from attributes
(`caption`) and read back from any text (`parse`); some combinations are never rendered
(`is_held_out`), to tell learning from memory.

    caption(Attributes("red", "circle", "large", "left", "slowly", "plain charcoal"))
    # a large red circle moves left slowly over a plain charcoal background
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 35),
    "yellow": (240, 215, 30),
    "green": (35, 180, 60),
    "cyan": (30, 210, 220),
    "blue": (40, 70, 230),
    "purple": (190, 50, 210),
}
"""Names and sRGB values; neighbours on the colour wheel are 60 degrees or so apart."""

SHAPES = ("circle", "square", "triangle")
SIZES: dict[str, float] = {"small": 0.36, "large": 0.54}
"""Diameter of the circle of equal area, as a share of the frame's shorter side."""

DIRECTIONS = ("left", "right", "up", "down")
STEPS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
"""Unit vectors (x to the right, y down)."""

SPEEDS = ("slowly", "quickly")
BACKGROUNDS = ("plain charcoal", "black gradient", "grey checkered")

CHOICES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "direction": DIRECTIONS,
    "speed": SPEEDS,
    "background": BACKGROUNDS,
}
"""The values each attribute may take; 1 / len is what guessing reaches."""

_MOVING = (
    "a {size} {colour} {shape} moves {direction} {speed} over a {background} background",
    "on a {background} background a {size} {colour} {shape} drifts {direction} {speed}",
    "{speed} moving {direction} is a {size} {colour} {shape} over a {background} background",
)
_RESTING = (
    "a {size} {colour} {shape} rests on a {background} background",
    "on a {background} background lies a {size} {colour} {shape}",
    "at rest is a {size} {colour} {shape} over a {background} background",
)
NUM_TEMPLATES = len(_MOVING)


@dataclass(frozen=True)
class Attributes:
    """What is seen, or what a text says; None where it says nothing.

    A still has neither direction nor speed.
    """

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    direction: str | None = None
    speed: str | None = None
    background: str | None = None


def caption(attributes: Attributes, template: int = 0) -> str:
    """Return one line of English that says every attribute that is set.

    Args:
        attributes: What to say; without a direction the object is said to rest.
        template: Which of the `NUM_TEMPLATES` sentences to use.
    """
    sentences = _MOVING if attributes.direction else _RESTING
    words = {f.name: getattr(attributes, f.name) or "" for f in fields(attributes)}
    return " ".join(sentences[template].format(**words).split())


def parse(text: str) -> Attributes:
    """Return what a text says; the first word of each kind counts, None where there is none."""
    return Attributes(**{name: _first(text, choices) for name, choices in CHOICES.items()})


def agreement(truth: Attributes, found: Attributes) -> dict[str, bool]:
    """Return, for each attribute that the truth has, whether `found` says the same."""
    return {
        f.name: getattr(found, f.name) == getattr(truth, f.name)
        for f in fields(truth)
        if getattr(truth, f.name) is not None
    }


def is_held_out(attributes: Attributes) -> bool:
    """Return whether the corpus never renders this combination.

    Eight of the 48 combinations of colour, direction and size are held out, one colour for
    each direction and size, so that every pair of values is still seen. Stills never are.
    """
    if attributes.colour is None or attributes.direction is None or attributes.size is None:
        return False
    colour = tuple(COLOURS).index(attributes.colour)
    direction = DIRECTIONS.index(attributes.direction)
    size = tuple(SIZES).index(attributes.size)
    return colour == (direction + 3 * size) % len(COLOURS)


def combinations(held_out: bool) -> Iterator[Attributes]:
    """Yield every moving combination that is held out, or every one that is not."""
    for values in itertools.product(*CHOICES.values()):
        attributes = Attributes(**dict(zip(CHOICES, values, strict=True)))
        if is_held_out(attributes) == held_out:
            yield attributes


def stills() -> Iterator[Attributes]:
    """Yield every combination at rest."""
    names = ("colour", "shape", "size", "background")
    for values in itertools.product(*(CHOICES[name] for name in names)):
        yield Attributes(**dict(zip(names, values, strict=True)))


def _first(text: str, choices: tuple[str, ...]) -> str | None:
    found = [
        (match.start(), choice)
        for choice in choices
        if (match := re.search(rf"\b{re.escape(choice)}\b", text.lower()))
    ]
    return min(found)[1] if found else None
