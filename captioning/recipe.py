"""Recipes: what a synthetic caption was made with, and the key by which it is fresh or stale."""

import hashlib
import json
from dataclasses import asdict, dataclass

from captioning.config import CaptionSettings
from captioning.prompt import load_prompt, prompt_id
from infra import weights

CODE_VERSION = "1"
"""Raised by hand when the same settings come to give other captions."""


@dataclass(frozen=True)
class Recipe:
    """Everything a caption depends on besides the clip; one row of the recipes table."""

    model: str
    model_revision: str
    prompt: str
    prompt_id: str
    frame_policy: str
    sampling: str
    code_version: str = CODE_VERSION

    @property
    def recipe_id(self) -> str:
        """Hash of all that is above."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def recipe(settings: CaptionSettings) -> Recipe:
    """Return the recipe that settings describe.

    A folder counts by its content; batch size, device and number of workers do not count.

    Raises:
        ConfigError: The prompt cannot be read.
    """
    prompt = load_prompt(settings.prompt_file)
    folder = weights.is_folder(settings.model)
    sampling = {
        "dtype": settings.dtype,
        "max_new_tokens": settings.max_new_tokens,
        "choice": "greedy",
    }
    return Recipe(
        model="local" if folder else settings.model,
        model_revision=weights.revision(settings.model, settings.revision),
        prompt=prompt,
        prompt_id=prompt_id(prompt),
        frame_policy=f"even-{settings.frames.num_frames}-max{settings.frames.max_side_px}px",
        sampling=json.dumps(sampling, sort_keys=True),
    )
