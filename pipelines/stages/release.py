"""Pin what a training run reads: table versions and the clips of this run that count."""

from collections.abc import Sequence

from infra.store import release
from infra.store.dataset import Dataset
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.stages.ingest import chosen


def pin(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Create the release named by this task's key; an identical one that exists counts.

    Captions of recipes that were tried in between are not taken, though they may be newer.
    """
    (task,) = tasks
    recipes = {done.outputs["recipe_id"] for done in runtime.inputs(task, "caption")}
    selection = chosen(runtime, task).model_copy(update={"recipe_ids": tuple(sorted(recipes))})
    made = release.create(Dataset.open(runtime.dataset), task.key, selection)
    runtime.commit(task, {"name": made.name, "digest": made.digest})
