"""Serving a run's models: which ones, and `snapvideo serve`."""

import sys

from infra import tracking
from pipelines.config import RunConfig
from serve.config import ModelSettings

STAGE1 = "snapvideo-stage1"
STAGE2 = "snapvideo-stage2"
"""Names under which the two stages are registered."""


def model_settings(config: RunConfig) -> ModelSettings:
    """Return the served models with the run's own champions where none are named.

    Raises:
        DataError: The run has not registered its models yet.
    """
    tracker = tracking.connect(config.tracking, config.workspace)
    return config.serve.models.model_copy(
        update={"stage1": tracker.resolve(STAGE1), "stage2": tracker.resolve(STAGE2)}
    )


def serve_until_interrupted(config: RunConfig) -> None:
    """Answer the videos API; Ctrl-C hands unfinished jobs back to the table."""
    import serve.app
    import serve.weights

    settings = config.serve.model_copy(
        update={"models": model_settings(config), "folder": f"{config.workspace}/serve"}
    )
    serve.app.check_port(settings.host, settings.port)
    server = serve.app.run(settings, serve.weights.find(settings.models))
    sys.stdout.write(f"serving {server.url}/v1 (docs at {server.url}/docs); Ctrl-C ends it\n")
    sys.stdout.flush()
    try:
        server.wait()
    finally:
        server.shutdown()
