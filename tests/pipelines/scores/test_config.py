"""The settings as a person writes them."""

from pathlib import Path

import pytest

from infra.config import from_text, load
from infra.errors import ConfigError
from pipelines.config import RunConfig
from pipelines.scores.config import FilterSettings

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


def test_a_share_above_one_and_an_unknown_threshold_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"filter\.max_text_area"):
        from_text(RunConfig, "filter: {max_text_area: 5}", "f.yaml")
    with pytest.raises(ConfigError, match="min_motion"):
        from_text(RunConfig, "filter: {min_motoin: 5}", "f.yaml")


def test_no_default_is_a_bound():
    assert FilterSettings().bounds({}) == ()
