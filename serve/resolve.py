"""From the fields of a request to the video that is queued: defaults filled in, limits checked.

Everything that a replica could refuse later is refused here, by name, before a job exists.
"""

import secrets

from serve.config import ServeSettings
from serve.schema import ApiError, CreateBody, ModelFacts, VideoRequest, refuse

SEED_BITS = 31


def resolve(body: CreateBody, facts: ModelFacts, settings: ServeSettings) -> VideoRequest:
    """Return the request with every default filled in and every limit checked.

    Raises:
        ApiError: The model is unknown (404), or a value cannot be served (400).
    """
    if body.model not in (None, facts.name):
        message = f"model: {body.model!r} is not served here; accepted: {facts.name!r}"
        raise ApiError(404, "model_not_found", message, "model")
    if body.size not in (None, facts.size):
        refuse("size", body.size, f"{facts.size!r} (width x height)")
    for name, text in (("prompt", body.prompt), ("negative_prompt", body.negative_prompt)):
        if len(text) > settings.limits.prompt_chars:
            most = f"at most {settings.limits.prompt_chars} of them (serve.limits.prompt_chars)"
            refuse(name, f"{len(text)} characters", most)
    num_frames, fps = _length(body, facts, settings)
    defaults = settings.defaults
    request = VideoRequest(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        seed=secrets.randbits(SEED_BITS) if body.seed is None else body.seed,
        num_frames=num_frames,
        fps=fps,
        steps=body.num_inference_steps or max(defaults.steps, 2),
        steps_2=body.num_inference_steps_2 or max(defaults.steps_2, 2),
        guidance=_guidance(body) or max(defaults.guidance, 1.0),
        guidance_2=body.guidance_scale_2 or max(defaults.guidance_2, 1.0),
        guidance_low=_low_guidance(body, settings),
        reconstruction=_given(body.reconstruction, defaults.reconstruction),
        sigma_aug=body.sigma_aug or defaults.sigma_aug,
    )
    _check_limits(request, settings)
    _check_work(request, facts, settings)
    return request


def _length(body: CreateBody, facts: ModelFacts, settings: ServeSettings) -> tuple[int, float]:
    """Return a video's frames and framerate.

    `seconds` alone sets the framerate of one clip, or of `num_frames`, where the model knows it;
    else it sets the frames at the default framerate.
    """
    low, high = min(facts.framerates), max(facts.framerates)
    frames = body.num_frames or facts.num_frames
    if body.seconds is not None and body.fps is None:
        if _within(frames / body.seconds, low, high):
            return _few(frames, settings), frames / body.seconds
        if body.num_frames is not None:
            accepted = f"{frames / high:g} to {frames / low:g} for {frames} frames"
            refuse("seconds", body.seconds, accepted)
    fps = body.fps or float(settings.defaults.fps) or high
    if not _within(fps, low, high):
        span = f"{low:g} to {high:g}" if low < high else f"{low:g}"
        refuse("fps", fps, f"{span}, which the model was trained at")
    if body.seconds is None:
        return _few(frames, settings), fps
    return _frames_of(body.seconds, fps, body.num_frames, settings), fps


def _frames_of(seconds: float, fps: float, num_frames: int | None, settings: ServeSettings) -> int:
    """Return the frames that last `seconds`, which must be `num_frames` where that is given."""
    most = settings.limits.num_frames
    frames = round(min(seconds * fps, most + 1))
    if num_frames is not None and frames != num_frames:
        refuse("seconds", f"{seconds:g} x {fps:g} fps", f"num_frames ({num_frames}) at that fps")
    if frames < 1:
        refuse("seconds", seconds, f"{1 / fps:g} (one frame at {fps:g} fps) or more")
    if frames > most:
        accepted = f"at most {most / fps:g} s at {fps:g} fps, {most} frames"
        refuse("seconds", seconds, f"{accepted} (serve.limits.num_frames)")
    return frames


def _few(frames: int, settings: ServeSettings) -> int:
    most = settings.limits.num_frames
    if frames > most:
        refuse("num_frames", frames, f"at most {most} frames (serve.limits.num_frames)")
    return frames


def _within(value: float, low: float, high: float) -> bool:
    return low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _guidance(body: CreateBody) -> float | None:
    guidance, alias = body.guidance_scale, body.true_cfg_scale
    if guidance is not None and alias is not None and guidance != alias:
        refuse("true_cfg_scale", alias, f"the value of guidance_scale ({guidance:g}), or nothing")
    return guidance if guidance is not None else alias


def _low_guidance(body: CreateBody, settings: ServeSettings) -> float | None:
    default = settings.defaults.guidance_low
    return body.guidance_scale_low or (max(default, 1.0) if default else None)


def _check_limits(request: VideoRequest, settings: ServeSettings) -> None:
    limits = settings.limits
    for name, steps in (
        ("num_inference_steps", request.steps),
        ("num_inference_steps_2", request.steps_2),
    ):
        if steps > limits.steps:
            refuse(name, steps, f"2 to {limits.steps} (serve.limits.steps)")
    for name, weight, least in (
        ("guidance_scale", request.guidance, 1),
        ("guidance_scale_2", request.guidance_2, 1),
        ("guidance_scale_low", request.guidance_low, 1),
        ("reconstruction", request.reconstruction, 0),
    ):
        if weight is not None and weight > limits.guidance:
            refuse(name, weight, f"{least} to {limits.guidance:g} (serve.limits.guidance)")


def _check_work(request: VideoRequest, facts: ModelFacts, settings: ServeSettings) -> None:
    """Refuse a video of so many clips that it would keep a replica for too long."""
    total, most = request.num_steps(facts), settings.limits.total_steps
    if total > most:
        refuse(
            "num_frames",
            f"{request.num_frames} frames, {total} denoising steps in all",
            f"at most {most} of them (serve.limits.total_steps); ask for fewer frames or fewer "
            "num_inference_steps",
        )
