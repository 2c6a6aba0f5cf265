"""Bring the files of each stale partition into the dataset."""

from collections.abc import Sequence
from dataclasses import asdict

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
