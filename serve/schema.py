"""What requests may say and what answers look like: the videos API shape of the `openai` client.

A body arrives as multipart form, urlencoded form or JSON; `extra_params` holds further fields as
`extra_params[name]`, as a JSON string or as an object. All of it becomes one checked `VideoRequest`
that the job table stores and the generator reads. A field that is not known is refused by name:
nothing is ignored in silence.
"""

import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from serve.config import ServeSettings
from serve.jobs import Job, Page

SEED_BITS = 31
_CARRIERS = ("extra_params", "extra_body")


def _encodable(text: str) -> str:
    """Refuse half a surrogate pair, which JSON can say and no answer or tokenizer can."""
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise ValueError(f"not Unicode text ({fault.reason})") from fault
    return text


Text = Annotated[str, pydantic.AfterValidator(_encodable)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Weight = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class ApiError(Exception):
    """A request that is refused, as the `{"error": ...}` object says it."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = {"Retry-After": str(retry_s)} if retry_s else {}


class ModelFacts(BaseModel):
    """What the API must know of the served weights; read from the checkpoints' JSON."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    created_at: int
    num_frames: int
    height_px: int
    width_px: int
    framerates: tuple[float, ...]
    has_stage2: bool

    @property
    def size(self) -> str:
        """Width x height in pixels of the videos it makes."""
        return f"{self.width_px}x{self.height_px}"


class Served(BaseModel):
    """The weights behind the API: where they lie, and what they make."""

    model_config = ConfigDict(frozen=True)

    stage1: str
    stage2: str
    text_model: str
    source_height_px: int
    source_width_px: int
    facts: ModelFacts


class VideoRequest(BaseModel):
    """A complete, checked request: with the weights, it determines the video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    negative_prompt: str = ""
    seed: Seed
    num_frames: PositiveInt
    fps: PositiveFloat
    steps: Annotated[int, Field(ge=2)]
    steps_2: Annotated[int, Field(ge=2)]
    guidance: Weight
    guidance_2: Weight
    sigma_aug: PositiveFloat = 0.2

    def batch_key(self, digest: str) -> str:
        """Return what jobs must share to be denoised together."""
        parts = (digest[:16], self.num_frames, self.steps, self.steps_2)
        return "/".join(map(str, parts)) + f"/{self.guidance!r}/{self.guidance_2!r}"


class CreateBody(BaseModel):
    """The fields of POST /v1/videos."""

    model_config = ConfigDict(extra="forbid", title="CreateVideo")

    prompt: Annotated[Text, Field(min_length=1)]
    model: Text | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    size: Text | None = None
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    num_frames: PositiveInt | None = None
    seed: Seed | None = None
    num_inference_steps: Annotated[int, Field(ge=2)] | None = None
    num_inference_steps_2: Annotated[int, Field(ge=2)] | None = None
    guidance_scale: Weight | None = None
    guidance_scale_2: Weight | None = None
    true_cfg_scale: Weight | None = None
    sigma_aug: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    negative_prompt: Text = ""


def parse_body(fields: Mapping[str, Any]) -> CreateBody:
    """Return the checked fields of a create request.

    Raises:
        ApiError: A field is unknown, missing or malformed; 400.
    """
    merged = _unpacked(fields)
    if merged.get("input_reference") is not None:
        raise ApiError(
            400,
            "unsupported_parameter",
            "input_reference: this model makes videos from text only; leave it out",
            "input_reference",
        )
    try:
        return CreateBody.model_validate(merged)
    except pydantic.ValidationError as fault:
        raise _refusal(fault) from fault


def resolve(body: CreateBody, facts: ModelFacts, settings: ServeSettings) -> VideoRequest:
    """Return the request with every default filled in and every limit checked.

    Raises:
        ApiError: The model is unknown (404), or a value cannot be served (400).
    """
    if body.model not in (None, facts.name):
        message = f"model: {body.model!r} is not served here; accepted: {facts.name!r}"
        raise ApiError(404, "model_not_found", message, "model")
    if body.size not in (None, facts.size):
        _refuse("size", body.size, f"{facts.size!r} (width x height)")
    for name, text in (("prompt", body.prompt), ("negative_prompt", body.negative_prompt)):
        if len(text) > settings.limits.prompt_chars:
            _refuse(
                name, f"{len(text)} characters", f"at most {settings.limits.prompt_chars} of them"
            )
    guidance = _one_of(body.guidance_scale, body.true_cfg_scale)
    defaults = settings.defaults
    request = VideoRequest(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        seed=secrets.randbits(SEED_BITS) if body.seed is None else body.seed,
        num_frames=facts.num_frames,
        fps=_fps(body, facts, settings),
        steps=body.num_inference_steps or max(defaults.steps, 2),
        steps_2=body.num_inference_steps_2 or max(defaults.steps_2, 2),
        guidance=guidance or max(defaults.guidance, 1.0),
        guidance_2=body.guidance_scale_2 or max(defaults.guidance_2, 1.0),
        sigma_aug=body.sigma_aug or defaults.sigma_aug,
    )
    _check_limits(request, settings)
    return request


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Return a hash by which a repeated request is known to be the same."""
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def video_object(job: Job, facts: ModelFacts) -> dict[str, Any]:
    """Return the video object of a job; fields of ours come after those of the shared shape."""
    request = VideoRequest.model_validate(job.request)
    return {
        "id": job.id,
        "object": "video",
        "created_at": int(job.created_at),
        "completed_at": None if job.completed_at is None else int(job.completed_at),
        "expires_at": None if job.expires_at is None else int(job.expires_at),
        "model": job.model,
        "status": job.status,
        "progress": job.progress,
        "seconds": f"{request.num_frames / request.fps:g}",
        "size": facts.size,
        "prompt": request.prompt,
        "remixed_from_video_id": None,
        "error": job.error,
        "seed": request.seed,
        "fps": request.fps,
        "num_frames": request.num_frames,
        "num_inference_steps": request.steps,
        "num_inference_steps_2": request.steps_2 if facts.has_stage2 else None,
        "guidance_scale": request.guidance,
        "guidance_scale_2": request.guidance_2 if facts.has_stage2 else None,
        "sigma_aug": request.sigma_aug if facts.has_stage2 else None,
        "negative_prompt": request.negative_prompt,
        "model_digest": (job.result or {}).get("digest", job.model_digest),
    }


def video_list(page: Page, facts: ModelFacts) -> dict[str, Any]:
    """Return one page of video objects."""
    data = [video_object(job, facts) for job in page.jobs]
    return {
        "object": "list",
        "data": data,
        "has_more": page.has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def model_object(facts: ModelFacts) -> dict[str, Any]:
    """Return the model object of what is served."""
    return {
        "id": facts.name,
        "object": "model",
        "created": facts.created_at,
        "owned_by": "snapvideo",
        "digest": facts.digest,
        "size": facts.size,
        "num_frames": facts.num_frames,
        "framerates": list(facts.framerates),
    }


def error_object(code: str, message: str, param: str | None, status: int) -> dict[str, Any]:
    """Return the body of a refused request."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _unpacked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Bring what `extra_params` and `extra_body` carry up to the other fields."""
    merged = {name: value for name, value in fields.items() if name not in _CARRIERS}
    for carrier in _CARRIERS:
        for name, value in _carried(carrier, fields.get(carrier)).items():
            if name in merged:
                message = f"{name}: given twice, once inside {carrier}; give it once"
                raise ApiError(400, "invalid_value", message, name)
            merged[name] = value
    return merged


def _carried(carrier: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - what JSON may hold
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as fault:
            message = f"{carrier}: not JSON ({fault}); give an object such as {{'seed': 7}}"
            raise ApiError(400, "invalid_value", message, carrier) from fault
    if not isinstance(value, dict):
        _refuse(carrier, value, "a JSON object")
    return dict(value)


def _refusal(fault: pydantic.ValidationError) -> ApiError:
    first = fault.errors()[0]
    param = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(CreateBody.model_fields)
        return ApiError(
            400, "unknown_parameter", f"{param}: not a parameter; accepted: {known}", param
        )
    if first["type"] == "missing":
        return ApiError(400, "missing_required_parameter", f"{param}: is required", param)
    received = str(first["input"])[:80]
    return ApiError(400, "invalid_value", f"{param}: {first['msg']}, got {received!r}", param)


def _fps(body: CreateBody, facts: ModelFacts, settings: ServeSettings) -> float:
    """Return the framerate at which the model's frames last as long as is asked for."""
    if body.num_frames not in (None, facts.num_frames):
        _refuse("num_frames", body.num_frames, f"{facts.num_frames}, the model's clip length")
    low, high = min(facts.framerates), max(facts.framerates)
    if body.fps is not None:
        fps = body.fps
    elif body.seconds is not None:
        fps = facts.num_frames / body.seconds
    else:
        fps = float(settings.defaults.fps) or high
    shortest, longest = facts.num_frames / high, facts.num_frames / low
    if body.fps is None and body.seconds is not None and not _within(fps, low, high):
        _refuse("seconds", body.seconds, f"{shortest:g} to {longest:g}")
    if not _within(fps, low, high):
        _refuse("fps", fps, f"{low:g} to {high:g}")
    if body.fps and body.seconds and not math.isclose(body.fps * body.seconds, facts.num_frames):
        accepted = f"seconds x fps = {facts.num_frames} frames, the model's clip length"
        _refuse("seconds", f"{body.seconds:g} x {body.fps:g}", accepted)
    return fps


def _within(value: float, low: float, high: float) -> bool:
    return low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def _one_of(guidance: float | None, alias: float | None) -> float | None:
    if guidance is not None and alias is not None and guidance != alias:
        _refuse("true_cfg_scale", alias, f"the value of guidance_scale ({guidance:g}), or nothing")
    return guidance if guidance is not None else alias


def _check_limits(request: VideoRequest, settings: ServeSettings) -> None:
    limits = settings.limits
    for name, steps in (
        ("num_inference_steps", request.steps),
        ("num_inference_steps_2", request.steps_2),
    ):
        if steps > limits.steps:
            _refuse(name, steps, f"2 to {limits.steps}")
    for name, weight in (
        ("guidance_scale", request.guidance),
        ("guidance_scale_2", request.guidance_2),
    ):
        if weight > limits.guidance:
            _refuse(name, weight, f"1 to {limits.guidance:g}")


def _refuse(param: str, received: object, accepted: str) -> None:
    message = f"{param}: got {received!r}; accepted: {accepted}"
    raise ApiError(400, "invalid_value", message, param)
