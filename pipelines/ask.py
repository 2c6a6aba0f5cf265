"""Samples: serve the trained models and ask for videos over HTTP, as a user's program would.

The server listens on a free port of this machine for as long as the stage runs; the requests
go through the stock `openai` client.
"""

import hashlib
import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai

from infra import storage
from infra.errors import ServiceError
from pipelines.samples_config import SampleSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One video that was asked for and delivered."""

    prompt: str
    seed: int
    file: str
    """Name below the stage's folder."""
    seconds: float


def collect(base_url: str, model: str, settings: SampleSettings, folder: str) -> list[Sample]:
    """Ask for every prompt and seed, save the MP4s and return what was saved.

    Args:
        base_url: The server's address, ending in `/v1`.
        model: What the server calls its model.
        settings: Prompts, seeds and sampling.
        folder: URI that receives `NNNN.mp4`.

    Raises:
        ServiceError: A request is refused or a job failed; its error is in the message.
    """
    try:
        return _collected(base_url, model, settings, folder)
    except openai.OpenAIError as fault:
        raise ServiceError(
            f"samples: the server at {base_url} answers {fault}; check the settings of samples "
            "against serve.limits, and the log above"
        ) from fault


def _collected(base_url: str, model: str, settings: SampleSettings, folder: str) -> list[Sample]:
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=5, timeout=120.0)
    wanted = settings.wanted()
    began = time.monotonic()
    jobs = [_create(client, model, prompt, seed, settings) for prompt, seed in wanted]
    log.info("asked for videos=%d at %s", len(jobs), base_url)
    samples: list[Sample] = []
    with ThreadPoolExecutor(max_workers=4) as pool:
        for number, data in enumerate(pool.map(lambda job: _finish(client, job), jobs)):
            prompt, seed = wanted[number]
            name = f"{number:04d}.mp4"
            storage.write_bytes(storage.join(folder, name), data)
            elapsed = time.monotonic() - began
            samples.append(Sample(prompt, seed, name, round(elapsed, 2)))
            if (number + 1) % 8 == 0 or number + 1 == len(jobs):
                rate = (number + 1) / elapsed
                left_s = (len(jobs) - number - 1) / rate
                log.info(
                    "sampled videos=%d of=%d rate=%.2f/s left_s=%.0f",
                    number + 1, len(jobs), rate, left_s,
                )  # fmt: skip
    return samples


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _create(
    client: openai.OpenAI, model: str, prompt: str, seed: int, settings: SampleSettings
) -> str:
    asked = _fields(seed, settings)
    same = hashlib.sha256(json.dumps([model, prompt, asked], sort_keys=True).encode()).hexdigest()
    job = client.videos.create(
        model=model,
        prompt=prompt,
        extra_body=asked,
        extra_headers={"Idempotency-Key": same},  # a killed run finds its jobs again
    )
    return job.id


def _fields(seed: int, settings: SampleSettings) -> dict[str, float | str]:
    """Return what a request says besides its prompt; what the settings leave open is left out."""
    asked: dict[str, float | str | None] = {
        "seed": seed,
        "num_frames": settings.frames,
        "fps": settings.fps,
        "num_inference_steps": settings.steps,
        "num_inference_steps_2": settings.steps_2,
        "guidance_scale": settings.guidance,
        "guidance_scale_2": settings.guidance_2,
        "guidance_scale_low": settings.guidance_low,
        "reconstruction": settings.reconstruction,
        "sigma_aug": settings.sigma_aug,
        "negative_prompt": settings.negative_prompt or None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _finish(client: openai.OpenAI, job_id: str) -> bytes:
    done = client.videos.poll(job_id)
    if done.status != "completed":
        reason = done.error.message if done.error else "no reason given"
        raise ServiceError(f"video {job_id} ended as {done.status}: {reason}")
    return bytes(client.videos.download_content(job_id).read())
