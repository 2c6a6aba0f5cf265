"""What determines a video, as the JSON file beside it says it: the request and the weights.

recipe = Recipe(request, served)
recipe.to_dict()["command"]          # what a shell says to make the video again
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.schema import Served, VideoRequest

_FLAGS = {
    "negative_prompt": "negative-prompt",
    "seed": "seed",
    "num_frames": "frames",
    "fps": "fps",
    "steps": "steps",
    "steps_2": "steps-2",
    "guidance": "guidance",
    "guidance_low": "guidance-low",
    "guidance_2": "guidance-2",
    "reconstruction": "reconstruction",
    "sigma_aug": "sigma-aug",
}
"""Field of a request -> flag of `snapvideo sample`."""

_WEIGHTS = ("digest", "source_height_px", "source_width_px")


@dataclass(frozen=True)
class Recipe:
    """A checked request and the weights that answer it."""

    request: VideoRequest
    served: Served

    @property
    def model(self) -> dict[str, Any]:
        """The weights: where they lie, and the digest by which a copy of them is known."""
        places = self.served.model_dump(exclude={"facts"})
        return {"digest": self.served.facts.digest} | places

    @property
    def identity(self) -> str:
        """A text that two recipes share if and only if they make the same video."""
        return identity_of({"request": self.request.model_dump(), "model": self.model})

    @property
    def command(self) -> str:
        """The call of `snapvideo` that makes the video again, quoted for a shell."""
        values = self.request.model_dump(exclude_none=True)
        if not values["negative_prompt"]:
            del values["negative_prompt"]
        flags = [f"--{_FLAGS[name]}={values[name]}" for name in _FLAGS if name in values]
        served = self.served
        flags += [f"--stage1={served.stage1}", f"--stage2={served.stage2 or 'none'}"]
        flags += [f"--text-model={served.text_model}"]
        if served.source_height_px and served.source_width_px:
            flags += [f"--serve.models.source-height-px={served.source_height_px}"]
            flags += [f"--serve.models.source-width-px={served.source_width_px}"]
        return shlex.join(["snapvideo", "sample", f"--prompts={values['prompt']}", *flags])

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        request = self.request.model_dump()
        return {"command": self.command, "request": request, "model": self.model}


def identity_of(recipe: Mapping[str, Any]) -> str:
    """Return the identity of a recipe as `to_dict` returned it, some version ago perhaps.

    Raises:
        KeyError: It is none.
    """
    weights = {name: recipe["model"][name] for name in _WEIGHTS}
    return json.dumps([recipe["request"], weights], sort_keys=True)
