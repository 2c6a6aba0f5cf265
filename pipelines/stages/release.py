"""Pin what a training run reads: table versions and the sources of this run."""

from collections.abc import Sequence

from infra.store import release
from infra.store.dataset import Dataset
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task


def pin(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Create the release named by this task's key; an identical one that exists counts."""
    (task,) = tasks
    sources = sorted(
        {one for done in runtime.inputs(task, "ingest") for one in done.outputs["source_ids"]}
    )
    dataset = Dataset.open(runtime.dataset)
    made = release.create(dataset, task.key, release.Selection(source_ids=tuple(sources)))
    runtime.commit(task, {"name": made.name, "digest": made.digest})
