"""`snapvideo model`: which presets there are, and what one costs before it is trained.

snapvideo model list
snapvideo model describe fit-3.9b --workers 8 --batch 4
"""

from collections.abc import Sequence

from infra.errors import ConfigError
from pipelines.models_config import DescribeSettings
from train.describe import Setup, describe, parameters_by_part, render
from train.meter import pretended
from train.model.networks import build
from train.model.presets import PRESETS


def answer(settings: DescribeSettings, operands: Sequence[str]) -> str:
    """Return what `snapvideo model` says to its operands.

    Raises:
        ConfigError: It knows no such action or preset.
    """
    match [*operands] or ["list"]:
        case ["list"]:
            return listed()
        case ["describe", preset]:
            return render(describe(preset, Setup(**settings.model_dump())))
        case ["describe", *presets]:
            received = f"got {len(presets)}" if presets else "got none"
            raise ConfigError(f"model describe: one preset is needed, {received}; {_known()}")
        case other:
            raise ConfigError(
                f"model: unknown action '{' '.join(other)}'; say model list, or model describe "
                "PRESET"
            )


def listed() -> str:
    """Return every preset with its clips and parameters, one a line."""
    rows = []
    with pretended():
        for name, config in PRESETS.items():
            count = sum(parameters_by_part(build(config)).values())
            _, frames, height, width = config.clip_shape
            rows.append((name, f"{frames} x {height} x {width}", f"{count:,}"))
    head = ("preset", "frames x height x width", "parameters")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {clip:<{widths[1]}}  {count:>{widths[2]}}"
        for name, clip, count in (head, *rows)
    )


def _known() -> str:
    return f"known: {', '.join(PRESETS)}"
