"""Render the demo's source folder; the truth lies beside it, where only the report looks."""

from collections.abc import Sequence
from dataclasses import asdict

from pipelines import corpus
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task


def render(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Write the corpus into a folder that all attempts share; its files are the same each time."""
    (task,) = tasks
    facts = corpus.render(runtime.keyed_folder(task), config.corpus, config.seed)
    runtime.commit(task, asdict(facts))
