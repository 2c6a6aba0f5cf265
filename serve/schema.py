"""What requests may say and what answers look like: the videos API shape of the `openai` client.

A body arrives as multipart form, urlencoded form or JSON; `extra_params` holds further fields as
`extra_params[name]`, as a JSON string or as an object. All of it becomes one checked `VideoRequest`
(`serve.resolve`) that the job table stores and the generator reads. A field that is not known is
refused by name: nothing is ignored in silence.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from serve import route
from serve.config import LowResNoise
from serve.jobs import Job, Page
from train.diffusion import hierarchy

_CARRIERS = ("extra_params", "extra_body")


def _encodable(text: str) -> str:
    """Refuse half a surrogate pair, which JSON can say and no answer or tokenizer can."""
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise ValueError(f"not Unicode text ({fault.reason})") from fault
    return text


def _said(text: str) -> str:
    """Refuse a prompt of white space alone."""
    if not text.strip():
        raise ValueError("is empty; say what to draw")
    return text


Text = Annotated[str, pydantic.AfterValidator(_encodable)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Weight = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pull = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ApiError(Exception):
    """A request that is refused, as the `{"error": ...}` object says it."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = {"Retry-After": str(retry_s)} if retry_s else {}


class ModelFacts(BaseModel):
    """What the API must know of the served weights; read from the checkpoints' JSON.

    `num_frames` are those of one clip; a longer video is several of them.
    """

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
    def num_stages(self) -> int:
        """Networks of the cascade."""
        return 2 if self.has_stage2 else 1

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
    fps: Positive
    steps: Annotated[int, Field(ge=2)]
    steps_2: Annotated[int, Field(ge=2)]
    guidance: Weight
    guidance_2: Weight
    guidance_low: Weight | None = None
    reconstruction: Pull = 1.0
    sigma_aug: LowResNoise = 0.2

    def plan(self, facts: ModelFacts) -> hierarchy.Plan:
        """Return the windows that the video is made in.

        Raises:
            ValueError: Its framerate is none that the model was trained at.
        """
        return hierarchy.plan(self.num_frames, self.fps, facts.num_frames, facts.framerates)

    def num_steps(self, facts: ModelFacts) -> int:
        """Return the denoising steps of all its windows in both stages."""
        legs = route.route(self.plan(facts), facts.num_stages)
        return route.count_steps(legs, (self.steps, self.steps_2))

    def batch_key(self, facts: ModelFacts) -> str:
        """Return what jobs must share to be denoised together."""
        levels = len(self.plan(facts).levels)
        counts = (facts.digest[:16], self.num_frames, levels, self.steps, self.steps_2)
        weights = (self.guidance, self.guidance_2, self.guidance_low, self.reconstruction)
        return "/".join([*map(str, counts), *map(repr, weights)])


class CreateBody(BaseModel):
    """The fields of POST /v1/videos."""

    model_config = ConfigDict(extra="forbid", title="CreateVideo")

    prompt: Annotated[Text, pydantic.AfterValidator(_said)]
    model: Text | None = None
    seconds: Positive | None = Field(
        None, description="Length. Within one clip's range it sets fps; beyond it, num_frames."
    )
    size: Text | None = None
    fps: Positive | None = Field(None, description="Frames per second; the default is the model's.")
    num_frames: PositiveInt | None = Field(
        None,
        description="Length in frames; the default is one clip of the model. A longer video is "
        "made of several clips that know each other, a shorter one is cut from one clip.",
    )
    seed: Seed | None = None
    num_inference_steps: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Steps of each clip in the first stage."
    )
    num_inference_steps_2: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Steps of each clip in the second stage."
    )
    guidance_scale: Weight | None = None
    guidance_scale_2: Weight | None = None
    guidance_scale_low: Weight | None = Field(
        None,
        description="First stage: from a tenth of the steps on, every other step takes this weight "
        "in place of guidance_scale (oscillating guidance).",
    )
    true_cfg_scale: Weight | None = None
    reconstruction: Pull | None = Field(
        None, description="How strongly a clip is pulled to the frames it is given; 0 is off."
    )
    sigma_aug: LowResNoise | None = None
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
        "guidance_scale_low": request.guidance_low,
        "reconstruction": request.reconstruction,
        "sigma_aug": request.sigma_aug if facts.has_stage2 else None,
        "negative_prompt": request.negative_prompt,
        "model_digest": (job.result or {}).get("digest", job.model_digest),
        "warnings": (job.result or {}).get("warnings", []),
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


def model_object(facts: ModelFacts, max_num_frames: int) -> dict[str, Any]:
    """Return the model object of what is served."""
    return {
        "id": facts.name,
        "object": "model",
        "created": facts.created_at,
        "owned_by": "snapvideo",
        "digest": facts.digest,
        "size": facts.size,
        "num_frames": facts.num_frames,
        "max_num_frames": max_num_frames,
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
        refuse(carrier, value, "a JSON object")
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


def refuse(param: str, received: object, accepted: str) -> NoReturn:
    """Refuse a parameter's value.

    Raises:
        ApiError: Always.
    """
    message = f"{param}: got {received!r}; accepted: {accepted}"
    raise ApiError(400, "invalid_value", message, param)
