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


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("serve"))
    database = table.url_for("", folder)
    table.migrate(database)
    app = build_app(Jobs(database), FACTS, ServeSettings(folder=folder))
    server = uvicorn.Server(uvicorn.Config(app, port=ask.free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}/v1"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance": 1000.0}, r"guidance_scale: got 1000\.0; accepted: 1 to 50"),
        ({"guidance_2": 99.0}, r"guidance_scale_2: got 99\.0"),
        ({"guidance_low": 99.0}, r"guidance_scale_low: got 99\.0"),
        ({"reconstruction": 99.0}, r"reconstruction: got 99\.0"),
        ({"frames": 9999}, "num_frames: got 9999; accepted: at most 512"),
        ({"fps": 9.0}, r"fps: got 9\.0; accepted: 8"),
        ({"steps": 9999}, "num_inference_steps: got 9999"),
        ({"steps_2": 9999}, "num_inference_steps_2: got 9999"),
        ({"negative_prompt": "x" * 4001}, "negative_prompt: got '4001 characters'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_every_setting_is_sent_and_named_where_the_server_refuses_it(
    base_url, tmp_path, values, message
):
    settings = SampleSettings(prompts=("a red circle",), **values)
    with pytest.raises(ServiceError, match=message):
        ask.collect(base_url, "m", settings, str(tmp_path))
