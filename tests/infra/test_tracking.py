"""Runs and models on a real SQLite MLflow; a server that is not there."""

import time

import pytest

from infra.errors import ConfigError, DataError, ServiceError
from infra.tracking import Tracker, TrackingSettings, connect, tracking_uri


@pytest.fixture(scope="module")
def tracker(tmp_path_factory) -> Tracker:
    return connect(TrackingSettings(), str(tmp_path_factory.mktemp("workspace")))


def test_the_same_key_continues_the_same_run(tracker):
    first = tracker.start_run("stage1", "key-1", {"steps": 3}, {"code": "abc"})
    assert tracker.start_run("stage1", "key-1", {"steps": 3}, {"code": "abc"}) == first
    assert tracker.start_run("stage1", "key-2", {}, {}) != first


def test_what_was_logged_is_known_after_a_restart(tracker):
    run = tracker.start_run("stage1", "key-log", {}, {})
    assert tracker.last_step(run, "loss") == -1
    tracker.log(run, {"loss": 2.0, "lr": 0.1}, 20)
    tracker.log(run, {"loss": 1.0, "lr": 0.1}, 40)
    assert tracker.last_step(run, "loss") == 40


def test_a_registered_folder_is_found_by_alias_and_version(tracker, tmp_path):
    run = tracker.start_run("stage1", "key-model", {}, {})
    old = tracker.register("m", str(tmp_path / "old"), run, {"release": "r1"})
    new = tracker.register("m", str(tmp_path / "new"), run, {"release": "r2"})
    assert tracker.resolve("m") == str(tmp_path / "new")
    assert tracker.resolve("m", str(old)) == str(tmp_path / "old")
    assert tracker.register("m", str(tmp_path / "new"), run, {}) == new


def test_a_folder_in_s3_is_registered_as_it_is(tracker):
    run = tracker.start_run("stage1", "key-s3", {}, {})
    tracker.register("in-s3", "s3://bucket/model", run, {})
    assert tracker.resolve("in-s3") == "s3://bucket/model"


@pytest.mark.parametrize("which", ["champion", "7"])
def test_an_unknown_model_is_named(tracker, which):
    with pytest.raises(DataError, match=f"nothing@{which} is not registered"):
        tracker.resolve("nothing", which)


def test_a_server_that_does_not_answer_is_named_within_seconds():
    begun = time.monotonic()
    with pytest.raises(ServiceError, match=r"tracking\.uri.*127\.0\.0\.1:9"):
        connect(TrackingSettings(uri="http://127.0.0.1:9"), "runs/none")
    assert time.monotonic() - begun < 10


def test_a_folder_that_cannot_hold_sqlite_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"tracking\.uri.* mend rights there.* --output"):
        connect(TrackingSettings(), str(tmp_path / "file" / "below"))


def test_a_run_in_s3_needs_a_tracking_uri():
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        tracking_uri(TrackingSettings(), "s3://bucket/runs/demo")
