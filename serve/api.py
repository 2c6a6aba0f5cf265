"""The HTTP API: create, look up, list, cancel, delete and download videos.

Handlers only read and write the job table; replicas do the work (`serve.worker`). Plain FastAPI,
without Ray: `build_app(...)` runs under any ASGI server.
"""

import http
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

import fastapi
import sqlalchemy.exc
import starlette.exceptions
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from infra import logs, storage
from serve import schema
from serve.body import read_fields
from serve.config import ServeSettings
from serve.jobs import OPEN, Job, Jobs, NewJob, Order
from serve.resolve import resolve
from serve.schema import ApiError, ModelFacts, Served

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_KEY_CHARS = 256  # of an idempotency key, as wide as its column


class VideosApi:
    """Handlers over one job table and one served model."""

    def __init__(self, jobs: Jobs, facts: ModelFacts, settings: ServeSettings) -> None:
        self.jobs, self.facts, self.settings = jobs, facts, settings

    async def create(self, request: Request) -> JSONResponse:
        """Queue a video. Multipart form or JSON; an `Idempotency-Key` makes repeats safe."""
        fields = await read_fields(request, self.settings.limits.body_bytes)
        wanted = resolve(schema.parse_body(fields), self.facts, self.settings)
        key = request.headers.get("idempotency-key")
        if key and len(key) > _KEY_CHARS:
            message = f"Idempotency-Key: {len(key)} characters, at most {_KEY_CHARS}"
            raise ApiError(400, "invalid_value", message, "Idempotency-Key")
        new = NewJob(
            model=self.facts.name,
            model_digest=self.facts.digest,
            request=wanted.model_dump(),
            batch_key=wanted.batch_key(self.facts),
            fingerprint=schema.fingerprint(fields),
            idempotency_key=key,
        )
        job = await run_in_threadpool(self.jobs.create, new)
        if job.fingerprint != new.fingerprint:
            raise ApiError(
                422,
                "idempotency_key_reused",
                "Idempotency-Key: this key made another video; use a new one for a new request",
            )
        return self._answer(job)

    def retrieve(self, video_id: str) -> JSONResponse:
        """Return one video object."""
        return self._answer(self._job(video_id))

    def list_videos(
        self,
        after: str | None = None,
        limit: Annotated[int, fastapi.Query(ge=1, le=100)] = 20,
        order: Order = "desc",
    ) -> JSONResponse:
        """Return videos by time of creation, newest first unless `order` says otherwise."""
        start = self._job(after, "after") if after else None
        page = self.jobs.page(start, limit, order)
        return JSONResponse(schema.video_list(page, self.facts))

    def cancel(self, video_id: str) -> JSONResponse:
        """Stop a video that is not finished; a running one ends at its next step."""
        job = self._job(video_id)
        if job.status in ("completed", "failed"):
            message = f"{video_id} is {job.status}; only queued or running videos can be cancelled"
            raise ApiError(400, "not_cancellable", message)
        return self._answer(self.jobs.cancel(video_id) or job)

    def delete(self, video_id: str) -> JSONResponse:
        """Remove a video with its files; a running one is stopped."""
        self._job(video_id)
        self.jobs.delete(video_id)
        for kind in ("videos", "states"):
            storage.delete(storage.join(storage.absolute(self.settings.folder), kind, video_id))
        return JSONResponse({"id": video_id, "deleted": True, "object": "video.deleted"})

    def content(self, video_id: str, request: Request, variant: str = "video") -> Response:
        """Return a finished video's bytes, or those of its thumbnail; `Range` is honoured."""
        job = self._job(video_id)
        if job.status != "completed" or job.result is None:
            message = f"{video_id} is {job.status}; its content exists once it is completed"
            raise ApiError(404, "content_not_ready", message)
        asset = job.result["assets"].get(variant)
        if asset is None:
            accepted = ", ".join(job.result["assets"])
            message = f"variant: got {variant!r}; accepted: {accepted}"
            raise ApiError(400, "invalid_value", message, "variant")
        return _file_response(asset, request.headers)

    def models(self) -> JSONResponse:
        """Return the served model as a list of one."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    def model(self, model_id: str) -> JSONResponse:
        """Return one model object."""
        if model_id != self.facts.name:
            message = f"model {model_id!r} is not served here; accepted: {self.facts.name!r}"
            raise ApiError(404, "model_not_found", message, "model")
        return JSONResponse(self._model())

    def healthz(self) -> JSONResponse:
        """Say that the ingress runs."""
        return JSONResponse({"status": "ok"})

    def readyz(self) -> JSONResponse:
        """Say whether a replica has its weights loaded and takes jobs."""
        living = self.jobs.living_workers(within_s=self.settings.lease_s)
        if not living:
            message = "no replica is ready; it is loading its weights or being restarted"
            raise ApiError(503, "not_ready", message, retry_s=2)
        return JSONResponse(
            {"status": "ready", "replicas": len(living), "jobs": self.jobs.counts()}
        )

    def _model(self) -> dict[str, Any]:
        return schema.model_object(self.facts, self.settings.limits.num_frames)

    def _job(self, video_id: str, param: str = "video_id") -> Job:
        job = self.jobs.get(video_id)
        if job is None:
            raise ApiError(404, "not_found", f"{param}: there is no video {video_id!r}", param)
        return job

    def _answer(self, job: Job) -> JSONResponse:
        headers = {}
        if job.status in OPEN:
            headers["openai-poll-after-ms"] = str(self.settings.poll_after_ms)
        return JSONResponse(schema.video_object(job, self.facts), headers=headers)


class Ingress:
    """The deployment that answers HTTP; its state is all in the job table."""

    def __init__(self, settings: ServeSettings, served: Served, database_url: str) -> None:
        logs.setup()
        self._app = build_app(Jobs(database_url), served.facts, settings)

    def __serve_build_asgi_app__(self) -> fastapi.FastAPI:  # the hook that Ray Serve calls
        """Return the ASGI application of this replica."""
        return self._app


def build_app(jobs: Jobs, facts: ModelFacts, settings: ServeSettings) -> fastapi.FastAPI:
    """Return the ASGI application."""
    api = VideosApi(jobs, facts, settings)
    app = fastapi.FastAPI(title="snapvideo", description=__doc__, version="1")
    body = {"schema": schema.CreateBody.model_json_schema()}
    kinds = {"multipart/form-data": body, "application/json": body}
    routes: tuple[tuple[str, str, Any, dict[str, Any]], ...] = (
        ("POST", "/v1/videos", api.create, {"requestBody": {"content": kinds, "required": True}}),
        ("GET", "/v1/videos", api.list_videos, {}),
        ("GET", "/v1/videos/{video_id}", api.retrieve, {}),
        ("DELETE", "/v1/videos/{video_id}", api.delete, {}),
        ("POST", "/v1/videos/{video_id}/cancel", api.cancel, {}),
        ("GET", "/v1/videos/{video_id}/content", api.content, {}),
        ("GET", "/v1/models", api.models, {}),
        ("GET", "/v1/models/{model_id}", api.model, {}),
        ("GET", "/healthz", api.healthz, {}),
        ("GET", "/readyz", api.readyz, {}),
    )
    for method, path, handler, extra in routes:
        app.add_api_route(
            path, handler, methods=[method], response_model=None, openapi_extra=extra or None
        )
    app.add_exception_handler(ApiError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_bad_query)
    app.add_exception_handler(starlette.exceptions.HTTPException, _on_http)
    app.add_exception_handler(sqlalchemy.exc.OperationalError, _on_database)
    app.add_exception_handler(Exception, _on_fault)
    return app


def _file_response(asset: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    size, kind, uri = int(asset["size_bytes"]), str(asset["media_type"]), str(asset["uri"])
    tag = f'"{asset["sha256"][:32]}"'
    common = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, max-age=3600"}
    span = None
    if headers.get("if-range", tag) == tag:
        span = _span(headers.get("range", ""), size)
    if span is None:
        return Response(storage.read_bytes(uri), media_type=kind, headers=common)
    start, end = span
    if start >= end:
        refusal = schema.error_object(
            "range_not_satisfiable", f"Range: the file has {size} bytes", "Range", 416
        )
        return JSONResponse(refusal, 416, {"Content-Range": f"bytes */{size}"})
    data = storage.read_range(uri, start, end - start)
    common["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(data, 206, common, media_type=kind)


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Return [start, end) of a single byte range; None where the whole file is to be sent."""
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return (max(size - int(last), 0), size) if int(last) else (size, size)
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def _on_refusal(_: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, ApiError)
    body = schema.error_object(fault.code, fault.message, fault.param, fault.status)
    return JSONResponse(body, fault.status, fault.headers)


def _on_bad_query(_: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, RequestValidationError)
    first = fault.errors()[0]
    param = str(first["loc"][-1])
    message = f"{param}: {first['msg']}, got {str(first['input'])[:80]!r}"
    return JSONResponse(schema.error_object("invalid_value", message, param, 400), 400)


def _on_http(_: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, starlette.exceptions.HTTPException)
    code = http.HTTPStatus(fault.status_code).phrase.lower().replace(" ", "_")
    body = schema.error_object(code, str(fault.detail), None, fault.status_code)
    return JSONResponse(body, fault.status_code, fault.headers)


def _on_database(_: Request, fault: Exception) -> JSONResponse:
    body = schema.error_object(
        "database_unavailable", f"the job table does not answer ({fault.__cause__})", None, 503
    )
    return JSONResponse(body, 503, {"Retry-After": "2"})


def _on_fault(_: Request, fault: Exception) -> JSONResponse:
    message = f"a fault of ours at {int(time.time())} ({type(fault).__name__}); see the log"
    return JSONResponse(schema.error_object("internal_error", message, None, 500), 500)
