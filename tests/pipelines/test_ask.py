"""Asking for samples over HTTP: what the server refuses is said in one message."""

import threading
import time

import pytest
import uvicorn

from infra.errors import ServiceError
from pipelines import ask
from pipelines.samples_config import SampleSettings
from serve import table
from serve.api import build_app
from serve.config import ServeSettings
from serve.jobs import Jobs
from serve.schema import ModelFacts

FACTS = ModelFacts(
    name="m", digest="d" * 64, created_at=0, num_frames=4,
    height_px=24, width_px=32, framerates=(8.0,), has_stage2=True,
)  # fmt: skip


@pytest.fixture
def base_url(tmp_path):
    database = table.url_for("", str(tmp_path))
    table.migrate(database)
    app = build_app(Jobs(database), FACTS, ServeSettings(folder=str(tmp_path)))
    server = uvicorn.Server(uvicorn.Config(app, port=ask.free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}/v1"
    server.should_exit = True
    thread.join(10)


def test_a_setting_beyond_the_servers_limits_is_named(base_url, tmp_path):
    settings = SampleSettings(prompts=("a red circle",), guidance=1000.0)
    with pytest.raises(ServiceError, match=r"guidance_scale: got 1000\.0; accepted: 1 to 50"):
        ask.collect(base_url, "m", settings, str(tmp_path))
