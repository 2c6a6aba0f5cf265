"""Pin what a training run reads: table versions and the sources of this run."""

from collections.abc import Sequence

from infra.store import release
from infra.store.dataset import Dataset
from infra.store.selection import Selection
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task


def pin(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Create the release named by this task's key; an identical one that exists counts.

    Captions of recipes that were tried in between are not taken, though they may be newer.
    """
    (task,) = tasks
    ingested = [done.outputs for done in runtime.inputs(task, "ingest")]
    captioned = [done.outputs for done in runtime.inputs(task, "caption")]
    selection = Selection(
        transform_id=ingested[0]["transform_id"],
        recipe_ids=tuple(sorted({one["recipe_id"] for one in captioned})),
    )
    made = release.create(Dataset.open(runtime.dataset), task.key, selection)
    runtime.commit(task, {"name": made.name, "digest": made.digest})
