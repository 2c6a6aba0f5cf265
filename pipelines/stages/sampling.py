"""Serve the trained models on this machine and ask for the run's videos over HTTP."""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict

from infra import storage
from infra.store.release import Split, load
from pipelines import ask
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.serving import registry
from serve.config import ModelSettings, ServeSettings

UNSEEN: tuple[Split, ...] = ("test", "validation")


def sample(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Keep a server up for as long as it takes to get one video per prompt and seed."""
    import serve.app
    import serve.weights

    (task,) = tasks
    whole = runtime.settings
    assert isinstance(whole, RunConfig)
    wanted = config.samples
    if not wanted.prompts:
        (pinned,) = runtime.inputs(task, "release")
        prompts = unseen_captions(runtime.dataset, pinned.outputs["name"], wanted.num_prompts)
        wanted = wanted.model_copy(update={"prompts": prompts})
    with tempfile.TemporaryDirectory() as scratch:
        place = storage.join(runtime.keyed_folder(task), "serve")
        settings = settings_at(whole.serve, place, scratch)
        models = own_models(runtime, task, settings.models)
        server = serve.app.run(settings, serve.weights.find(models, registry(whole)))
        try:
            name = models.name
            folder = runtime.folder(task)
            samples = ask.collect(f"{server.url}/v1", name, wanted, folder)
        finally:
            server.shutdown()
    runtime.commit(task, {"samples": [asdict(one) for one in samples], "folder": folder})


def own_models(runtime: Runtime, task: Task, models: ModelSettings) -> ModelSettings:
    """Return the models with the versions that the task's inputs registered.

    An alias may have moved on since: to another run's version, or to that of other settings.
    """
    (first,), (second,) = (runtime.inputs(task, stage) for stage in ("stage1", "stage2"))
    named = [f"{one.outputs['model']}@{one.outputs['version']}" for one in (first, second)]
    return models.model_copy(update={"stage1": named[0], "stage2": models.stage2 and named[1]})


def settings_at(settings: ServeSettings, folder: str, scratch: str) -> ServeSettings:
    """Return the settings of a server on a free port that keeps its files in `folder`.

    Where that lies in S3 and no `serve.database` is named, the job table is a SQLite file in
    `scratch`, a local folder: a killed run asks anew there.
    """
    database = settings.database
    if storage.is_s3(folder) and not database:
        database = f"sqlite:///{scratch}/jobs.db"
    found = {"port": ask.free_port(), "folder": folder, "database": database}
    return settings.model_copy(update=found)


def unseen_captions(dataset: str, name: str, number: int) -> tuple[str, ...]:
    """Return captions of sources that training does not read, else of any, evenly chosen."""
    release = load(dataset, name)
    for split in (*UNSEEN, None):
        with release.texts(split) as found:
            count = sum(map(len, found))
        if count:
            break
    step = max(1, count // number)
    with release.texts(split) as found:
        every = (str(text) for batch in found for text in batch.column(0).to_pylist())
        return tuple(itertools.islice(every, 0, step * number, step))
