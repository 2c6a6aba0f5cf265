"""Serve the trained models on this machine and ask for the run's videos over HTTP."""

from collections.abc import Sequence
from dataclasses import asdict

from infra import storage
from pipelines import ask
from pipelines.config import RunConfig
from pipelines.runtime import Runtime, Task
from pipelines.serving import registry


def sample(tasks: Sequence[Task], config: RunConfig, runtime: Runtime) -> None:
    """Keep a server up for as long as it takes to get one video per prompt and seed."""
    import serve.app
    import serve.weights

    (task,) = tasks
    whole = runtime.settings
    assert isinstance(whole, RunConfig)
    settings = whole.serve.model_copy(
        update={
            "port": ask.free_port(),
            "folder": storage.join(runtime.keyed_folder(task), "serve"),
        }
    )
    server = serve.app.run(settings, serve.weights.find(settings.models, registry(whole)))
    try:
        name = settings.models.name
        folder = runtime.folder(task)
        samples = ask.collect(f"{server.url}/v1", name, config.samples, folder)
    finally:
        server.shutdown()
    runtime.commit(task, {"samples": [asdict(one) for one in samples], "folder": folder})
