"""`snapvideo sample`: videos from a run's trained model, without Ray and without a server.

snapvideo sample "a red circle moves left" --name demo --format mp4 gif --preview 6
"""

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import serve.weights
from infra import storage
from infra.device import torch_device
from infra.errors import ConfigError, DataError
from infra.stills import Frames
from pipelines.config import RunConfig
from pipelines.outputs import Outputs, check_formats
from pipelines.recipe import Recipe
from pipelines.samples_config import DrawSettings, SampleSettings
from pipelines.serving import registry
from pipelines.watch import Course, Progress, Step, watch
from serve.config import ModelSettings
from serve.schema import ModelFacts, VideoRequest

log = logging.getLogger(__name__)

_NO_STAGE = "none"
_NAMES = serve.weights.Names(models="draw", device="draw.device")


def sample(config: RunConfig, operands: Sequence[str]) -> Iterator[str]:
    """Yield the URI of every file of every video, each as soon as the video is there.

    Args:
        config: The settings; `samples` says what to make, `draw` from which weights into what.
        operands: Prompts of the command line.

    Raises:
        ConfigError: A setting cannot be sampled with, or the models cannot together.
        DataError: A checkpoint is damaged, or the folder cannot be written.
    """
    draw = config.draw
    settings = config.samples.model_copy(update={"prompts": _prompts(config, operands)})
    torch_device(_NAMES.device, draw.device)
    served = serve.weights.find(_models(config), registry(config), _NAMES)
    recipes = [Recipe(request, served) for request in _requests(settings, served.facts)]
    check_formats(draw.format, recipes[0].request.fps)
    course = Course.of(recipes[0].request, served.facts)
    moments = course.moments(draw.preview)
    outputs, missing = Outputs(draw.out), []
    for recipe in recipes:
        found = outputs.find(recipe, draw.format, list(moments.values()))
        yield from found
        missing += [] if found else [recipe]
    if len(missing) < len(recipes):
        log.info("made before, with the same weights: videos=%d", len(recipes) - len(missing))
    if not missing:
        return
    outputs.check_writable()
    for recipe, frames, seen in _made(missing, draw, course, moments):
        yield from outputs.write(recipe, frames, draw.format, seen)


def _made(
    recipes: Sequence[Recipe], draw: DrawSettings, course: Course, moments: Mapping[Step, str]
) -> Iterator[tuple[Recipe, Frames, dict[str, Frames]]]:
    """Yield each recipe with its frames and what they looked like at the moments."""
    began_s = time.monotonic()
    generator = serve.weights.load(recipes[0].served, draw.device, _NAMES)
    shapes = [stage.network.config.clip_shape for stage in generator.stages]
    progress = Progress(len(recipes), tuple(math.prod(shape) for shape in shapes))
    for start in range(0, len(recipes), draw.batch):
        group = recipes[start : start + draw.batch]
        denoising = generator.begin([recipe.request for recipe in group])
        seen = watch(denoising, course, moments, len(group), progress)
        yield from zip(group, denoising.videos(), seen, strict=True)
    log.info("sampled videos=%d seconds=%.1f", len(recipes), time.monotonic() - began_s)


def _prompts(config: RunConfig, operands: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts of the command line and of the file, else those of the settings."""
    listed = _listed(config.draw.prompts_file) if config.draw.prompts_file else []
    prompts = (*operands, *listed) or config.samples.prompts
    if not prompts:
        raise ConfigError(
            "samples.prompts: none given; say snapvideo sample 'a prompt' 'another', or "
            "--prompts-file FILE"
        )
    for name, text in (
        *((f"prompt {number}", text) for number, text in enumerate(prompts, 1)),
        ("samples.negative_prompt", config.samples.negative_prompt or "none"),
    ):
        if not text.strip():
            raise ConfigError(f"{name}: {text!r} is empty; say what to draw")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(f"{name}: {text!r} is no Unicode text; say it in UTF-8")
    return prompts


def _listed(file: str) -> list[str]:
    """Return the lines of a file that are not empty; `-` is standard input."""
    try:
        text = sys.stdin.read() if file == "-" else storage.read_text(file)
    except (DataError, UnicodeDecodeError) as fault:
        raise ConfigError(
            f"draw.prompts_file: {fault}; give a text file with one prompt a line, or - for "
            "standard input"
        ) from fault
    prompts = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if not prompts:
        raise ConfigError(f"draw.prompts_file: {file} has no prompts; write one a line")
    return prompts


def _models(config: RunConfig) -> ModelSettings:
    """Return the models to sample with; a first stage alone is named without a second one."""
    draw, known = config.draw, config.serve.models
    stage2 = draw.stage2 or (_NO_STAGE if draw.stage1 else known.stage2)
    return known.model_copy(
        update={
            "stage1": draw.stage1 or known.stage1,
            "stage2": "" if stage2 == _NO_STAGE else stage2,
            "text_model": draw.text_model or known.text_model,
        }
    )


def _requests(settings: SampleSettings, facts: ModelFacts) -> list[VideoRequest]:
    fps = settings.fps or max(facts.framerates)
    low, high = min(facts.framerates), max(facts.framerates)
    if not low * (1 - 1e-6) <= fps <= high * (1 + 1e-6):
        rates = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        raise ConfigError(
            f"samples.fps: got {fps:g}, the model was trained at {rates} frames/s; choose one of "
            "these, or leave it out"
        )
    return [
        VideoRequest(
            prompt=prompt,
            negative_prompt=settings.negative_prompt,
            seed=seed,
            num_frames=settings.frames or facts.num_frames,
            fps=fps,
            steps=settings.steps,
            steps_2=settings.steps_2,
            guidance=settings.guidance,
            guidance_2=settings.guidance_2,
            guidance_low=settings.guidance_low,
            reconstruction=settings.reconstruction,
            sigma_aug=settings.sigma_aug,
        )
        for prompt, seed in settings.wanted()
    ]
