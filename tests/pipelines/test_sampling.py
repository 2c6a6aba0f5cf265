"""What the samples of a run are made with, and where the server remembers its jobs."""

import pytest

from infra.config import Settings
from infra.store import release
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.runtime import Runtime, Task
from pipelines.stages.sampling import own_models, settings_at, unseen_captions
from serve import table
from serve.config import ModelSettings, ServeSettings


def test_a_run_is_sampled_with_its_own_versions_wherever_the_alias_points(tmp_path):
    runtime = Runtime(str(tmp_path), Settings(), "test")
    inputs = {}
    for stage, version in (("stage1", 4), ("stage2", 2)):
        runtime.started[stage] = 0.0
        task = Task(stage, "all", f"key-{stage}", {}, {}, False, "")
        runtime.commit(task, {"model": f"snapvideo-{stage}", "version": version})
        inputs[f"{stage}/all"] = task.key
    samples = Task("samples", "all", "key", {}, inputs, False, "")
    models = own_models(runtime, samples, ModelSettings(name="mine"))
    assert (models.stage1, models.stage2) == ("snapvideo-stage1@4", "snapvideo-stage2@2")
    assert models.name == "mine"


@pytest.mark.parametrize(
    ("database", "folder", "expected"),
    [
        ("", "/run/serve", "sqlite:////run/serve/jobs.db"),
        ("", "s3://bucket/run/serve", "sqlite:////scratch/jobs.db"),
        ("postgresql://host/jobs", "s3://bucket/run/serve", "postgresql://host/jobs"),
    ],
)
def test_jobs_of_a_run_in_s3_are_kept_locally(database, folder, expected):
    settings = settings_at(ServeSettings(database=database), folder, "/scratch")
    assert settings.folder == folder
    assert table.url_for(settings.database, settings.folder) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(1, ("text 0",)), (2, ("text 0", "text 3")), (9, None)]
)
def test_prompts_are_spread_over_what_training_does_not_read(tmp_path, number, expected):
    dataset = Dataset.open(str(tmp_path / "d"), create=True)
    buckets = dict.fromkeys(range(6), 10) | dict.fromkeys(range(6, 9), 900)
    dataset.append("clips", [
        {"clip_id": str(n), "kind": "video", "num_frames": 9, "split_bucket": bucket}
        for n, bucket in buckets.items()
    ])  # fmt: skip
    dataset.append("captions", [
        {"clip_id": str(n), "text": f"text {n}", "origin": "human", "status": "ok"} for n in buckets
    ])  # fmt: skip
    release.create(dataset, "r", Selection())
    found = unseen_captions(dataset.root, "r", number)
    assert found == (expected or tuple(f"text {n}" for n in range(6)))
