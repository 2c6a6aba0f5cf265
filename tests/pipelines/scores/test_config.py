"""The settings as a person writes them."""

from pathlib import Path

import pytest

from infra.config import from_text, load
from infra.errors import ConfigError
from pipelines.config import RunConfig
from pipelines.scores.config import FilterSettings
from pipelines.scores.versions import VERSIONS

README = Path(__file__).parents[3] / "pipelines" / "scores" / "README.md"


def test_the_example_of_the_readme_is_what_it_seems():
    text = README.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    config = from_text(RunConfig, text, "README")
    versions = {"nsfw": "1", "aesthetic": "2", "motion": "3", "text_area": "4"}
    bounds = {bound.scorer: bound for bound in config.filter.bounds(versions)}
    assert set(bounds) == {"motion", "text_area", "nsfw"}
    assert (bounds["motion"].least, bounds["motion"].kinds) == (0.02, ("video",))
    assert (bounds["nsfw"].most, bounds["nsfw"].version) == (0.2, "1")
    assert config.filter.doubles.phash


def test_thresholds_are_flags():
    config = load(RunConfig, ["--filter.min-motion", "0.02", "--filter.doubles.phash", "true"])
    assert config.filter.min_motion == 0.02
    assert config.filter.doubles.phash


@pytest.mark.parametrize(
    ("setting", "value", "scorers", "side"),
    [
        ("min_duration_s", 2.0, {"duration_s"}, "least"),
        ("max_duration_s", 9.0, {"duration_s"}, "most"),
        ("min_side_px", 64, {"width", "height"}, "least"),
        ("min_fps", 12.0, {"fps"}, "least"),
        ("min_motion", 0.1, {"motion"}, "least"),
        ("max_motion", 3.0, {"motion"}, "most"),
        ("max_static_share", 0.5, {"static_share"}, "most"),
        ("max_flicker", 0.1, {"flicker"}, "most"),
        ("min_brightness", 0.1, {"brightness"}, "least"),
        ("max_brightness", 0.9, {"brightness"}, "most"),
        ("min_contrast", 0.1, {"contrast"}, "least"),
        ("min_sharpness", 0.1, {"sharpness"}, "least"),
        ("max_text_area", 0.1, {"text_area"}, "most"),
        ("max_bar_share", 0.1, {"bar_share"}, "most"),
    ],
)
def test_each_threshold_bounds_one_side_of_what_it_is_named_after(setting, value, scorers, side):
    bounds = FilterSettings(**{setting: value}).bounds()
    assert {bound.scorer for bound in bounds} == scorers
    for bound in bounds:
        limits = {"least": bound.least, "most": bound.most}
        assert limits.pop(side) == value
        assert limits.popitem()[1] in (0.0, float("inf"))
        assert bound.version == VERSIONS.get(bound.scorer, "clip")


def test_every_threshold_is_among_those_that_are_tried():
    (tried,) = test_each_threshold_bounds_one_side_of_what_it_is_named_after.pytestmark
    settings = {name for name in FilterSettings.model_fields if name.startswith(("min_", "max_"))}
    assert {case[0] for case in tried.args[1]} == settings


def test_a_share_above_one_and_an_unknown_threshold_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"filter\.max_text_area"):
        from_text(RunConfig, "filter: {max_text_area: 5}", "f.yaml")
    with pytest.raises(ConfigError, match="min_motion"):
        from_text(RunConfig, "filter: {min_motoin: 5}", "f.yaml")


def test_no_default_is_a_bound():
    assert FilterSettings().bounds({}) == ()
