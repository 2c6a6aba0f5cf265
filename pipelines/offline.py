"""`snapvideo sample`: videos from a run's trained model, without Ray and without a server."""

import logging
import time
from collections.abc import Iterator, Sequence

import serve.weights
from infra import storage, video
from pipelines.config import RunConfig
from pipelines.samples_config import SampleSettings
from pipelines.serving import registry
from serve.schema import ModelFacts, VideoRequest

log = logging.getLogger(__name__)

_GROUP = 8


def sample(config: RunConfig, settings: SampleSettings) -> Iterator[str]:
    """Yield the URI of one MP4 per prompt and seed, each as soon as it is written.

    Raises:
        DataError: The run has no registered model yet.
        ConfigError: The models cannot be sampled together.
    """
    served = serve.weights.find(config.serve.models, registry(config))
    generator = serve.weights.load(served, config.serve.device)
    wanted = list(_requests(settings, served.facts))
    began = time.monotonic()
    for start in range(0, len(wanted), _GROUP):
        group = wanted[start : start + _GROUP]
        denoising = generator.begin(group)
        while not denoising.done:
            denoising.advance()
            log.info("videos=%d-%d progress=%d%%", start, start + len(group), denoising.progress)
        for offset, frames in enumerate(denoising.videos()):
            uri = storage.join(storage.absolute(config.draw.out), f"{start + offset:04d}.mp4")
            storage.write_bytes(uri, video.encode_video(frames, group[0].fps))
            yield uri
    log.info("sampled videos=%d seconds=%.1f", len(wanted), time.monotonic() - began)


def _requests(settings: SampleSettings, facts: ModelFacts) -> Sequence[VideoRequest]:
    return [
        VideoRequest(
            prompt=prompt,
            seed=seed,
            num_frames=facts.num_frames,
            fps=settings.fps or max(facts.framerates),
            steps=settings.steps,
            steps_2=settings.steps_2,
            guidance=settings.guidance,
            guidance_2=settings.guidance_2,
            sigma_aug=settings.sigma_aug,
        )
        for prompt, seed in settings.wanted()
    ]
