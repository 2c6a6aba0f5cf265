"""Which signal scores there are, what they hold for, and the version of the code of each.

A version is raised by hand when the same clip comes to get another value; clips whose scores are
of an earlier version are measured again by `rescore`, and old scores stay beside the new ones.
"""

from collections.abc import Mapping

from infra.store.selection import Kind

VERSIONS: Mapping[str, str] = {
    "motion": "1",
    "static_share": "1",
    "flicker": "1",
    "brightness": "1",
    "contrast": "1",
    "detail": "1",
    "sharpness": "1",
    "text_area": "1",
    "bar_share": "1",
}
"""Scorer to version; `signals` says what each measures."""

OF_MOTION = ("motion", "static_share", "flicker")
"""Scorers that an image has nothing for."""


def kinds_of(scorer: str) -> tuple[Kind, ...]:
    """Return the kinds of clip that a scorer measures."""
    return ("video",) if scorer in OF_MOTION else ("video", "image")


def expected(kind: Kind) -> tuple[str, ...]:
    """Return the signal scores that every clip of a kind gets."""
    return tuple(name for name in VERSIONS if kind in kinds_of(name))
