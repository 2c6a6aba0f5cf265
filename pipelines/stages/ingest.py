"""Bring what is new in each stale partition into the dataset."""

from collections.abc import Sequence
from dataclasses import asdict

from infra.store.selection import Selection
from pipelines.config import RunConfig
from pipelines.ingest import ingest
from pipelines.prepare import Prepared
from pipelines.runtime import Runtime, Task
from pipelines.stages.filtering import filtered
from pipelines.steps.counts import no_counts


def bring_in(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Ingest all stale partitions at once; each is finished when its rows are committed."""
    whole, found = runtime.settings, runtime.facts["prepared"]
    assert isinstance(whole, RunConfig)
    assert isinstance(found, Prepared)
    counts = ingest(
        runtime.dataset,
        found,
        whole.ingest,
        whole.sources,
        run_id=tasks[0].key,
        code_version=runtime.code_version,
        measure=whole.scores.at_ingest,
    )
    nothing = no_counts(whole.ingest.transform_id)
    for task in tasks:
        told = counts.get(task.partition, nothing)
        runtime.commit(task, asdict(told) | {"source_root": found.source_root})


def chosen(runtime: Runtime, *tasks: Task) -> Selection:
    """Return which clips some tasks of a stage read: of their sources, cut and filtered as now.

    A dataset also holds what earlier sources and settings of the run left in it.
    """
    whole = runtime.settings
    assert isinstance(whole, RunConfig)
    ingested = runtime.inputs(tasks[0], "ingest")[0].outputs
    own = tuple(task.partition for task in tasks if "source" in task.inputs)
    found = Selection(
        source_root=ingested["source_root"],
        transform_id=ingested["transform_id"],
        partitions=own or whole.refresh.partitions,
    )
    for done in runtime.inputs(tasks[0], "filter"):
        found = filtered(done.outputs, found)
    return found
