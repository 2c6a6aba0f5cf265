"""Serving a run's models: which ones, and `snapvideo serve`."""

import sys
from collections.abc import Callable

from infra import storage, tracking
from infra.errors import ConfigError
from pipelines.config import RunConfig

Registry = Callable[[str, str], str]

STAGE1 = "snapvideo-stage1"
STAGE2 = "snapvideo-stage2"
"""Names under which the two stages are registered."""


def registry(config: RunConfig) -> Registry:
    """Return what finds a registered model's checkpoint folder in the run's MLflow.

    It connects when it is first asked; looking for a model does not make a run that is not there.
    """

    def resolve(name: str, version: str) -> str:
        database = config.mlflow_uri.removeprefix("sqlite:///")
        if database != config.mlflow_uri and not storage.exists(database):
            raise ConfigError(
                f"name: there is no run '{config.name}' in '{config.output}'; train it with "
                f"snapvideo run --name {config.name} --source DIR, or name a checkpoint's folder"
            )
        return tracking.connect(config.tracking, config.workspace).resolve(name, version)

    return resolve


def serve_until_interrupted(config: RunConfig) -> None:
    """Answer the videos API; Ctrl-C hands unfinished jobs back to the table."""
    import serve.app
    import serve.weights

    settings = config.serve
    if not settings.folder:
        settings = settings.model_copy(update={"folder": storage.join(config.workspace, "serve")})
    serve.app.check_port(settings.host, settings.port)
    server = serve.app.run(settings, serve.weights.find(settings.models, registry(config)))
    sys.stdout.write(f"serving {server.url}/v1 (docs at {server.url}/docs); Ctrl-C ends it\n")
    sys.stdout.flush()
    try:
        server.wait()
    finally:
        server.shutdown()
