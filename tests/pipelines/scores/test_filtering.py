"""Thresholds, reasons and counts, over tables alone."""

import pytest

from infra.errors import ConfigError
from infra.store.choose import chosen_clips
from infra.store.selection import Selection
from pipelines.scores.config import DoubleSettings, FilterSettings, ModelBound
from pipelines.scores.filtering import apply, policy_of

ANY = Selection()


@pytest.fixture
def scored(corpus):
    corpus.clips(
        {"clip_id": "still"},
        {"clip_id": "slow"},
        {"clip_id": "fast", "duration_s": 0.5},
        {"clip_id": "new"},
        {"clip_id": "photo", "kind": "image", "fps_num": 0, "fps_den": 0, "duration_s": 0.0},
    )
    corpus.score("motion", {"still": 0.0, "slow": 0.1, "fast": 2.0})
    return corpus


def reasons(corpus, policy_id):
    rows = corpus.dataset.read("quarantine").to_pylist()
    return {(r["clip_id"], r["reason"]) for r in rows if r["policy_id"] == policy_id}


def chosen(corpus, bounds):
    with chosen_clips(corpus.dataset, Selection(bounds=bounds), columns=["clip_id"]) as rows:
        return set(rows.read_all()["clip_id"].to_pylist())


def test_by_default_nothing_is_filtered(scored):
    bounds = FilterSettings().bounds()
    assert bounds == ()
    assert apply(scored.dataset, bounds, ANY, "r").num_refused == 0
    assert scored.dataset.version("quarantine") == -1


def test_a_refused_clip_has_a_reason_and_the_others_are_what_a_selection_takes(scored):
    bounds = FilterSettings(min_motion=0.05, max_motion=1.0).bounds()
    found = apply(scored.dataset, bounds, ANY, "r")
    assert reasons(scored, found.policy_id) == {
        ("still", "low_motion"), ("fast", "high_motion"), ("new", "no_motion")
    }  # fmt: skip
    assert (found.num_clips, found.num_refused, found.num_told) == (5, 3, 3)
    assert found.by_reason == {"low_motion": 1, "high_motion": 1, "no_motion": 1}
    assert chosen(scored, bounds) == {"slow", "photo"}


def test_the_message_holds_value_and_threshold(scored):
    apply(scored.dataset, FilterSettings(min_motion=0.05).bounds(), ANY, "r")
    rows = {row["clip_id"]: row for row in scored.dataset.read("quarantine").to_pylist()}
    assert rows["still"]["message"] == "motion 0 < 0.05"
    assert rows["still"]["stage"] == "filter"
    assert not rows["still"]["retryable"]
    assert rows["new"]["retryable"]


def test_a_policy_that_is_applied_again_adds_only_what_is_new(scored):
    bounds = FilterSettings(min_motion=0.05).bounds()
    apply(scored.dataset, bounds, ANY, "r")
    assert apply(scored.dataset, bounds, ANY, "r").num_told == 0
    scored.clips({"clip_id": "later"})
    scored.score("motion", {"later": 0.01})
    again = apply(scored.dataset, bounds, ANY, "r")
    assert (again.num_told, again.num_refused) == (1, 3)


def test_another_threshold_is_another_policy_and_takes_nothing_back(scored):
    strict = apply(scored.dataset, FilterSettings(min_motion=0.5).bounds(), ANY, "r")
    loose_bounds = FilterSettings(min_motion=0.05).bounds()
    loose = apply(scored.dataset, loose_bounds, ANY, "r")
    assert strict.policy_id != loose.policy_id
    assert ("slow", "low_motion") in reasons(scored, strict.policy_id)
    assert "slow" in chosen(scored, loose_bounds)


def test_several_reasons_of_one_clip_count_it_once(scored):
    bounds = FilterSettings(max_motion=1.0, min_duration_s=1.0).bounds()
    found = apply(scored.dataset, bounds, ANY, "r")
    assert found.by_reason == {"high_motion": 1, "low_duration_s": 1, "no_motion": 1}
    assert found.num_refused == 2


def test_an_older_version_of_a_score_does_not_count(scored):
    scored.score("motion", {"new": 0.5}, version="0")
    bounds = FilterSettings(min_motion=0.05).bounds()
    assert "new" not in chosen(scored, bounds)
    found = apply(scored.dataset, bounds, ANY, "r")
    assert ("new", "no_motion") in reasons(scored, found.policy_id)
    scored.score("motion", {"new": 0.5})
    assert "new" in chosen(scored, bounds)


def test_measures_of_the_clip_need_no_score(scored):
    bounds = FilterSettings(min_side_px=361).bounds()
    assert apply(scored.dataset, bounds, ANY, "r").by_reason == {"low_height": 5}
    assert chosen(scored, bounds) == set()


def test_a_score_that_is_no_number_refuses(scored):
    scored.score("motion", {"new": float("nan")})
    found = apply(scored.dataset, FilterSettings(min_motion=0.05).bounds(), ANY, "r")
    assert ("new", "no_motion") in reasons(scored, found.policy_id)


def test_only_the_clips_of_the_scope_are_looked_at(scored):
    images = Selection(kinds=("image",))
    bounds = FilterSettings(min_side_px=361).bounds()
    assert apply(scored.dataset, bounds, images, "r").by_reason == {"low_height": 1}


def test_a_model_that_no_scorer_is_set_up_for_is_refused_by_name():
    settings = FilterSettings(models=(ModelBound(scorer="aesthetik", least=5),))
    with pytest.raises(ConfigError, match="aesthetik"):
        settings.bounds()
    (bound,) = settings.bounds({"aesthetik": "v"})
    assert (bound.version, bound.least) == ("v", 5)


def test_the_order_of_bounds_is_no_other_policy():
    bounds = FilterSettings(min_motion=0.05, min_side_px=10).bounds()
    assert policy_of(bounds) == policy_of(bounds[::-1])
    assert policy_of(bounds) != policy_of(bounds[1:])


def test_doubles_are_not_looked_for_by_default():
    assert not DoubleSettings().phash
    assert not DoubleSettings().vectors
