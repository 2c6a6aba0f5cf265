"""The videos API on a live Ray Serve application, by the stock `openai` client and plain HTTP."""

import io
import json
import time

import av
import numpy as np
import openai
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PROMPT = "a large red circle moves left over a plain charcoal background"
FAST = {"num_inference_steps": 3, "num_inference_steps_2": 2}
LONG = {"num_inference_steps": 1000}


def decode(data):
    with av.open(io.BytesIO(data)) as file:
        rate = file.streams.video[0].average_rate
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]), rate


def make(client, **values):
    job = client.videos.create(prompt=PROMPT, extra_body=FAST | values)
    return client.videos.poll(job.id, poll_interval_ms=50)


@pytest.fixture(scope="module")
def finished(client):
    return make(client, seed=3, fps=8)


def test_the_stock_client_makes_polls_and_downloads_a_video(client):
    job = client.videos.create(prompt=PROMPT, model="snapvideo", extra_body={**FAST, "seed": 5})
    assert (job.object, job.status, job.progress, job.prompt) == ("video", "queued", 0, PROMPT)
    assert abs(job.created_at - time.time()) < 60
    done = client.videos.poll(job.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.completed_at >= done.created_at
    frames, rate = decode(client.videos.download_content(job.id).read())
    assert frames.shape == (4, 24, 32, 3)
    assert done.seconds == f"{4 / float(rate):g}"


def test_the_stock_client_makes_a_video_of_several_clips(client):
    done = make(client, seed=5, fps=12, num_frames=13, guidance_scale_low=1, reconstruction=2)
    assert (done.status, done.seconds, done.num_frames) == ("completed", "1.08333", 13)
    assert (done.guidance_scale_low, done.reconstruction, done.warnings) == (1.0, 2.0, [])
    frames, rate = decode(client.videos.download_content(done.id).read())
    assert (frames.shape, rate) == ((13, 24, 32, 3), 12)


def test_seconds_beyond_a_clip_make_more_frames(http):
    answer = http.post("/v1/videos", json={"prompt": PROMPT, "seconds": "2", **FAST}).json()
    assert (answer["seconds"], answer["fps"], answer["num_frames"]) == ("2", 24.0, 48)
    http.delete(f"/v1/videos/{answer['id']}")


def test_the_same_seed_gives_the_same_file(client, finished):
    again = make(client, seed=3, fps=8)
    first, second = (client.videos.download_content(v.id).read() for v in (finished, again))
    assert first == second


def test_the_thumbnail_is_a_webp_of_the_same_size(client, finished):
    answer = client.videos.download_content(finished.id, variant="thumbnail")
    assert answer.response.headers["content-type"] == "image/webp"
    assert decode(answer.read())[0].shape == (1, 24, 32, 3)


@pytest.mark.parametrize(
    "send",
    [
        {"json": {"prompt": PROMPT, "seed": 7, "fps": 6, **FAST}},
        {"data": {"prompt": PROMPT, "seed": "7", "fps": "6", "num_inference_steps": "3"}},
        {"files": {"prompt": (None, PROMPT), "seed": (None, "7"), "fps": (None, "6")}},
        {"files": {"prompt": (None, PROMPT), "extra_params": (None, '{"seed": 7, "fps": 6}')}},
        {"data": {"prompt": PROMPT, "extra_params[seed]": "7", "extra_params[fps]": "6"}},
        {"json": {"prompt": PROMPT, "extra_params": {"seed": 7, "fps": 6}}},
        {"json": {"prompt": PROMPT, "extra_body": json.dumps({"seed": 7, "fps": 6})}},
    ],
    ids=["json", "urlencoded", "multipart", "json string", "brackets", "object", "extra_body"],
)
def test_every_form_of_a_body_says_the_same(http, send):
    answer = http.post("/v1/videos", **send)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["seed"], body["fps"], body["seconds"]) == (7, 6.0, "0.666667")
    http.delete(f"/v1/videos/{body['id']}")


def test_the_stock_clients_nested_extra_body_arrives(client):
    job = client.videos.create(prompt=PROMPT, extra_body={"extra_params": {"seed": 9, **FAST}})
    assert job.seed == 9
    client.videos.delete(job.id)


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({}, 400, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, 400, "prompt", "invalid_value"),
        ({"prompt": " \n"}, 400, "prompt", "invalid_value"),
        ({"prompt": "x" * 4001}, 400, "prompt", "invalid_value"),
        ({"prompt": "x", "sead": 7}, 400, "sead", "unknown_parameter"),
        ({"prompt": "x", "extra_params": {"sead": 7}}, 400, "sead", "unknown_parameter"),
        ({"prompt": "x", "extra_params": "{"}, 400, "extra_params", "invalid_value"),
        ({"prompt": "x", "seed": -1}, 400, "seed", "invalid_value"),
        ({"prompt": "x", "seed": 1, "extra_params": {"seed": 2}}, 400, "seed", "invalid_value"),
        ({"prompt": "x", "model": "sora-2"}, 404, "model", "model_not_found"),
        ({"prompt": "x", "size": "1280x720"}, 400, "size", "invalid_value"),
        ({"prompt": "x", "seconds": "40"}, 400, "seconds", "invalid_value"),
        ({"prompt": "x", "fps": 1000}, 400, "fps", "invalid_value"),
        (
            {"prompt": "x", "seconds": "1", "fps": 24, "num_frames": 4},
            400,
            "seconds",
            "invalid_value",
        ),
        ({"prompt": "x", "num_frames": 9999}, 400, "num_frames", "invalid_value"),
        ({"prompt": "x", "reconstruction": -1}, 400, "reconstruction", "invalid_value"),
        ({"prompt": "x", "guidance_scale_low": 0}, 400, "guidance_scale_low", "invalid_value"),
        ({"prompt": "x", "num_inference_steps": 0}, 400, "num_inference_steps", "invalid_value"),
        ({"prompt": "x", "num_inference_steps": 9**9}, 400, "num_inference_steps", "invalid_value"),
        ({"prompt": "x", "guidance_scale": "nan"}, 400, "guidance_scale", "invalid_value"),
        (
            {"prompt": "x", "extra_params": '{"negative_prompt": "\\ud800"}'},
            400,
            "negative_prompt",
            "invalid_value",
        ),
        ({"prompt": "x", "extra_params": "[" * 99_999}, 400, "extra_params", "invalid_value"),
        ({"prompt": "x", "input_reference": "a"}, 400, "input_reference", "unsupported_parameter"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_field_is_refused_by_name(http, fields, status, param, code):
    answer = http.post("/v1/videos", json=fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert param in error["message"]


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_body"),
        ({"json": [1]}, 400, "invalid_body"),
        (
            {"content": b"1" * 5000, "headers": {"content-type": "application/json"}},
            400,
            "invalid_body",
        ),
        ({"content": b"x", "headers": {"content-type": "text/csv"}}, 415, "unsupported_media_type"),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            400,
            "invalid_body",
        ),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            400,
            "invalid_body",
        ),
        ({"json": {"prompt": "x" * 1_000_001}}, 413, "body_too_large"),
    ],
)
def test_a_bad_body_is_refused(http, send, status, code):
    answer = http.post("/v1/videos", **send)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_the_stock_client_raises_its_own_errors(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.videos.retrieve("video_none")
    assert missing.value.code == "not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(prompt=PROMPT, size="1280x720")
    assert (refused.value.param, refused.value.code) == ("size", "invalid_value")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/videos", 405),
        ("GET", "/v1/videos/none/content", 404),
        ("DELETE", "/v1/videos/none", 404),
        ("POST", "/v1/videos/none/cancel", 404),
        ("GET", "/v1/videos?limit=0", 400),
        ("GET", "/v1/videos?order=up", 400),
        ("GET", "/v1/videos?after=none", 404),
        ("GET", "/v1/models/none", 404),
    ],
)
def test_every_error_has_the_error_objects_shape(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_ranges_of_the_content_are_the_parts_of_the_whole(http, finished):
    path = f"/v1/videos/{finished.id}/content"
    whole = http.get(path)
    size = len(whole.content)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    for header, part in (
        ("bytes=0-9", whole.content[:10]),
        (f"bytes={size - 5}-", whole.content[-5:]),
        ("bytes=-7", whole.content[-7:]),
        ("bytes=10-99999999", whole.content[10:]),
    ):
        answer = http.get(path, headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{size}")
    beyond = http.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    absurd = http.get(path, headers={"Range": f"bytes={'9' * 5000}-"})
    assert (absurd.status_code, absurd.content) == (200, whole.content)
    stale = http.get(path, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (stale.status_code, stale.content) == (200, whole.content)


def test_an_unfinished_video_has_no_content_yet_and_can_be_cancelled(client, http):
    job = client.videos.create(prompt=PROMPT, extra_body=LONG)
    early = http.get(f"/v1/videos/{job.id}/content")
    assert (early.status_code, early.json()["error"]["code"]) == (404, "content_not_ready")
    deadline = time.monotonic() + 60
    while client.videos.retrieve(job.id).progress == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert http.post(f"/v1/videos/{job.id}/cancel").status_code == 200
    while (status := client.videos.retrieve(job.id).status) != "cancelled":
        assert (status, time.monotonic() < deadline) == ("in_progress", True)
        time.sleep(0.02)
    assert http.post(f"/v1/videos/{job.id}/cancel").json()["status"] == "cancelled"


def test_a_finished_video_cannot_be_cancelled(http, finished):
    answer = http.post(f"/v1/videos/{finished.id}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_cancellable")


def test_a_deleted_video_is_gone_with_its_files(client, http, live):
    video = make(client, seed=1)
    gone = client.videos.delete(video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    assert http.get(f"/v1/videos/{video.id}").status_code == 404
    assert not list(live.folder.glob(f"*/{video.id}/**/*.*"))


def test_listing_pages_through_every_video_once(client):
    made = [client.videos.create(prompt=PROMPT, extra_body=FAST).id for _ in range(5)]
    newest = [video.id for video in client.videos.list(limit=2)]
    assert newest[:5] == made[::-1]
    oldest = [video.id for video in client.videos.list(limit=2, order="asc")]
    assert oldest == newest[::-1]


def test_a_page_names_its_first_and_last_video(http):
    page = http.get("/v1/videos", params={"limit": 2}).json()
    assert (page["object"], page["has_more"], len(page["data"])) == ("list", True, 2)
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])


def test_an_idempotency_key_makes_one_video(http):
    send = {"json": {"prompt": PROMPT, **FAST}, "headers": {"Idempotency-Key": "k1"}}
    first, second = (http.post("/v1/videos", **send).json() for _ in range(2))
    assert first["id"] == second["id"]
    send["json"] = {"prompt": "another", **FAST}
    other = http.post("/v1/videos", **send)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_an_idempotency_key_that_no_column_holds_is_refused(http):
    send = {"json": {"prompt": PROMPT, **FAST}, "headers": {"Idempotency-Key": "k" * 257}}
    assert http.post("/v1/videos", **send).json()["error"]["param"] == "Idempotency-Key"


def test_an_open_video_says_when_to_poll_again(http):
    answer = http.post("/v1/videos", json={"prompt": PROMPT, **FAST})
    assert int(answer.headers["openai-poll-after-ms"]) > 0


def test_models_health_and_readiness(client, http):
    assert [model.id for model in client.models.list()] == ["snapvideo"]
    model = client.models.retrieve("snapvideo")
    assert (model.size, model.num_frames, model.max_num_frames) == ("32x24", 4, 512)
    assert http.get("/healthz").json() == {"status": "ok"}
    ready = http.get("/readyz").json()
    assert (ready["status"], ready["replicas"]) == ("ready", 1)


def test_the_openapi_document_describes_the_create_body(http):
    create = http.get("/openapi.json").json()["paths"]["/v1/videos"]["post"]
    assert set(create["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
