"""Bring the files of each stale partition into the dataset."""

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow.compute as pc

from infra.store.dataset import Dataset
from pipelines.config import RunConfig
from pipelines.ingest import ingest_partition
from pipelines.runtime import Runtime, Task


def ingest(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Ingest partition by partition; each is finished as soon as its rows are committed."""
    whole = runtime.settings
    assert isinstance(whole, RunConfig)
    for task in tasks:
        files = [file["uri"] for file in runtime.facts["partitions"][task.partition]]
        counts = ingest_partition(
            runtime.dataset, files, whole.ingest, task.key, runtime.code_version
        )
        runtime.commit(task, asdict(counts))


def own_clips(runtime: Runtime, task: Task) -> list[str]:
    """Return the clips of the partitions that a task reads, cut as they are cut now.

    A dataset also holds what earlier sources and settings of the run left in it.
    """
    found: list[str] = []
    for done in runtime.inputs(task, "ingest"):
        mine = pc.field("source_id").isin(done.outputs["source_ids"])
        mine &= pc.field("transform_id") == done.outputs["transform_id"]
        rows = Dataset.open(runtime.dataset).read("clips", columns=["clip_id"], where=mine)
        found += [str(clip) for clip in rows["clip_id"].to_pylist()]
    return found
