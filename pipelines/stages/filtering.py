"""Filters: which clips count by their scores, and which of those are near doubles of another."""

from collections.abc import Sequence

from infra.store.dataset import Dataset
from infra.store.manifest import Outputs
from infra.store.selection import Bound, Selection
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.stages.scoring import ingested

NEUTRAL = ("filter.doubles.memory_mib",)


def filter_clips(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Say in quarantine what the thresholds refuse, and look for doubles among the rest."""
    from pipelines.scores.alike import methods
    from pipelines.scores.doubles import search
    from pipelines.scores.filtering import apply

    (task,) = tasks
    (scored,) = runtime.inputs(task, "score")
    versions = {str(name): str(version) for name, version in scored.outputs["versions"].items()}
    dataset, scope = Dataset.open(runtime.dataset), ingested(runtime, task)
    bounds = config.filter.bounds(versions)
    refused = apply(dataset, bounds, scope, task.key)
    counting = scope.model_copy(update={"bounds": bounds})
    found = [
        search(dataset, counting, method, task.key)
        for method in methods(config.filter.doubles, versions)
    ]
    runtime.commit(
        task,
        {
            "policy_id": refused.policy_id,
            "num_clips": refused.num_clips,
            "num_refused": refused.num_refused,
            "by_reason": dict(refused.by_reason),
            "bounds": [one.model_dump(mode="json", exclude_defaults=True) for one in bounds],
            "duplicate_versions": [one.version for one in found],
            "num_doubles": {one.version: one.num_doubles for one in found},
        },
    )


def filtered(outputs: Outputs, selection: Selection) -> Selection:
    """Return a selection that takes what the filter stage left, given that stage's outputs."""
    bounds = tuple(Bound.model_validate(one) for one in outputs["bounds"])
    doubles = tuple(str(version) for version in outputs["duplicate_versions"])
    return selection.model_copy(update={"bounds": bounds, "duplicate_versions": doubles})
