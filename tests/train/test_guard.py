"""A loss that is not finite stops all ranks at once, and nothing is lost."""

import json
from pathlib import Path

import pytest

from infra.errors import ConfigError, DataError
from infra.tracking import TrackingSettings, connect
from tests.train import little
from train.config import OptimizerSettings, ReaderSettings, TrainSettings
from train.loop import Work, train_worker
from train.run import TrainJob, train_stage

GUILTY = "0003"
SETTINGS = TrainSettings(
    steps=6,
    batch_videos=2,
    batch_images=0,
    optimizer=OptimizerSettings(warmup_steps=2),
    reader=ReaderSettings(framerates=(12.0, 6.0)),
    report_every=1,
)


class Place:
    """A dataset in which one caption's embedding is not a number, and attempts to train on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root, self.text = little.make(folder, poisoned=int(GUILTY))
        self.tracker = connect(TrackingSettings(), str(folder))

    def train(self, settings: TrainSettings = SETTINGS) -> str:
        """Return what the attempt to train is refused with."""
        with pytest.raises((DataError, ConfigError)) as caught:
            train_stage(self.job(settings), self.tracker)
        return str(caught.value)

    def job(self, settings: TrainSettings) -> TrainJob:
        return TrainJob(
            "poisoned", 1, self.root, "r1", settings, self.text,
            out_uri=str(self.folder / "model"), storage_uri=str(self.folder / "state"),
        )  # fmt: skip

    def reports(self) -> list[dict]:
        paths = sorted((self.folder / "state").glob("nonfinite-*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def saved_steps(self) -> list[int]:
        paths = (self.folder / "state").glob("poisoned/checkpoint_*/fragments-00000-*.json")
        return sorted(json.loads(path.read_text())["state"]["step"] for path in paths)


@pytest.fixture(scope="module")
def stopped(ray_local, tmp_path_factory) -> tuple[Place, str]:
    place = Place(tmp_path_factory.mktemp("guard"))
    return place, place.train()


def test_the_message_names_the_clip_the_report_and_what_to_do(stopped):
    place, message = stopped
    (path,) = (place.folder / "state").glob("nonfinite-*.json")
    assert f"step 3 is not finite for 1 of 2 clips ({GUILTY}); {path}" in message
    assert "tries again from step 2" in message


def test_the_report_lists_the_whole_batch_of_every_rank(stopped):
    (report,) = stopped[0].reports()
    clips = [rank["clips"] for rank in report["ranks"]]
    assert [rank["rank"] for rank in report["ranks"]] == [0, 1]
    assert [[c["clip_id"] for c in mine] for mine in clips] == [[GUILTY], ["0001"]]
    assert clips[0][0]["loss"] == "nan"
    assert clips[1][0]["loss"] > 0
    assert all(c["sigma"] > 0 and c["seed"] > 0 for mine in clips for c in mine)


def test_the_weights_before_the_fault_are_kept(stopped):
    assert stopped[0].saved_steps() == [2]


def test_a_worker_that_is_started_again_ends_at_once(tmp_path):
    (tmp_path / "stop.json").write_text("{}")
    nothing = Work(None, SETTINGS, "", stop_uri=str(tmp_path / "stop.json"))
    assert train_worker({"work": nothing}) is None


def test_another_shape_cannot_go_on_from_the_checkpoint(stopped):
    message = stopped[0].train(SETTINGS.model_copy(update={"preset": "tiny"}))
    assert "ask for 'tiny'" in message
    assert "checkpoint of 'micro' for texts 16 wide at step 2" in message
    assert "another run name" in message


@pytest.mark.slow
def test_the_next_attempt_tries_anew_and_loses_nothing(stopped):
    place, _ = stopped
    assert "tries again from step 2" in place.train()
    assert [report["step"] for report in place.reports()] == [3, 3]
    assert place.saved_steps() == [2]
