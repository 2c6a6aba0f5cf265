"""Which clips count: bounds on scores, sources that are still there, doubles left out.

Plain settings, so that a release can pin them and a person can change them without decoding
anything again; `infra.store.choose` applies them.
"""

from typing import Literal

from pydantic import Field

from infra.config import Settings

Kind = Literal["video", "image"]
KINDS: tuple[Kind, ...] = ("video", "image")
OF_THE_CLIP = "clip"
"""Version of a bound whose scorer is a measure of the clips table."""


class Bound(Settings):
    """What a score must be for a clip to count; a clip without that score does not count."""

    scorer: str
    """Name of the scorer, as in the table `scores`."""
    version: str
    """Version of the scorer whose scores are meant."""
    least: float = float("-inf")
    """Lowest score that counts."""
    most: float = float("inf")
    """Highest score that counts."""
    kinds: tuple[Kind, ...] = ("video", "image")
    """Kinds of clip that it holds for; others are not measured by it (an image has no motion)."""


class Selection(Settings):
    """Which clips and captions a release holds."""

    kinds: tuple[Kind, ...] = ("video", "image")
    """Kinds of clip."""
    min_frames: int = Field(default=1, ge=1)
    """Shortest video, in frames; images are not measured by it."""
    transform_id: str = ""
    """Only clips cut by this transform; empty: any."""
    source_root: str = ""
    """Only clips whose sources lie there now (see the table `sources`); empty: any."""
    partitions: tuple[str, ...] = ()
    """Only clips of sources in these partitions; empty: any."""
    present: bool = False
    """Only clips of sources that are there now, as these were cut last; else also what vanished,
    changed or was cut otherwise since."""
    bounds: tuple[Bound, ...] = ()
    """What their scores must be."""
    duplicate_versions: tuple[str, ...] = ()
    """Leave out what these versions of the search for doubles found (see table `duplicates`)."""
    recipe_ids: tuple[str, ...] = ()
    """Only synthetic captions of these recipes; empty: any."""
    caption_policy: Literal["human_first"] = "human_first"
    """One caption a clip: the newest human one, else the newest synthetic one that is ok."""
    validation_share: float = Field(default=0.05, ge=0, le=0.5)
    """Share of sources (by hash) kept for validation."""
    test_share: float = Field(default=0.05, ge=0, le=0.5)
    """Share of sources (by hash) kept for testing."""
