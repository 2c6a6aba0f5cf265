"""Scores: what signals and models say of every clip that lacks it."""

from collections.abc import Sequence

from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.scores.versions import VERSIONS

NEUTRAL = tuple(
    f"scores.{name}"
    for name in (
        "at_ingest", "batch", "clips_per_commit", "device", "gpus_per_worker", "max_failed_share",
        "num_workers",
    )
)  # fmt: skip


def score(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Measure what is missing; tell the versions, so that filters speak of these scores."""
    from pipelines.scores.model_scores import model_scores
    from pipelines.scores.rescore import rescore
    from pipelines.scores.scorers import version_of
    from pipelines.scores.work import check_failed, count_clips

    (task,) = tasks
    settings, dataset, scope = config.scores, Dataset.open(runtime.dataset), ingested(runtime, task)
    passes = []
    if settings.signals:
        passes.append(rescore(dataset, scope, settings.clips_per_commit, task.key))
    passes += [
        model_scores(dataset, scorer, scope, settings, task.key) for scorer in settings.models
    ]
    check_failed(passes, count_clips(dataset, scope), settings.max_failed_share)
    runtime.commit(
        task,
        {
            "versions": dict(VERSIONS) | {one.name: version_of(one) for one in settings.models},
            "num_scored": {one.name: one.num_missing - one.num_failed for one in passes},
            "num_failed": {one.name: one.num_failed for one in passes},
        },
    )


def ingested(runtime: Runtime, task: Task) -> Selection:
    """Return the clips that the run's ingest cut, as it cuts them now."""
    outputs = [done.outputs for done in runtime.inputs(task, "ingest")]
    transforms = {str(one["transform_id"]) for one in outputs}
    assert len(transforms) == 1, f"partitions of one run are cut alike, not {transforms}"
    return Selection(
        transform_id=transforms.pop(), source_root=str(outputs[0].get("source_root", ""))
    )
