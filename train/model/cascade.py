"""The cascade: start an upsampler from the weights of the stage below it.

Both stages are FITs with the same blocks; only what touches the pixel grid differs. Blocks, norms,
projections and the time table are copied, the stem gets empty columns for the new input channels,
the space table is enlarged like an image, and each group's latents are dealt out to the smaller
groups it is divided into.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from train.model.fit import Fit, FitConfig


@dataclass(frozen=True)
class CascadeReport:
    """What became of every tensor of the upsampler, by name."""

    copied: tuple[str, ...]
    transformed: tuple[str, ...]
    new: tuple[str, ...]


def init_from_stage1(up: Fit, state: dict[str, Tensor], below: FitConfig) -> CascadeReport:
    """Fill `up` from the stage-1 weights `state` (the averaged ones) and say what was done.

    Args:
        up: The upsampler, freshly initialised; what has no counterpart below keeps its values.
        state: State dict of the stage below.
        below: The shape of the stage below.

    Raises:
        ValueError: A tensor of `state` has no place in `up`, or another shape than it needs; or
            the groups of `below` do not divide into those of `up`.
    """
    _check_grids(up.config, below)
    changes = {
        "stem.weight": lambda w: _wider_stem(w, up.config, below),
        "space_pos": lambda w: _larger_space(w, up.config, below),
        "latents": lambda w: _dealt_latents(w, up.config, below),
    }
    target = up.state_dict()
    filled = {name: changes[name](w) if name in changes else w for name, w in state.items()}
    for name, value in filled.items():
        if name not in target or target[name].shape != value.shape:
            place = tuple(target[name].shape) if name in target else "no such tensor"
            raise ValueError(f"stage 1's {name} {tuple(value.shape)} does not fit: {place}")
    with torch.no_grad():
        for name, value in filled.items():
            target[name].copy_(value)
    return CascadeReport(
        copied=tuple(name for name in filled if name not in changes),
        transformed=tuple(changes),
        new=tuple(name for name in target if name not in filled),
    )


def _check_grids(up: FitConfig, below: FitConfig) -> None:
    """Refuse grids whose latents and tables have no place in the larger one."""
    kinds = (below.patch_pos, up.patch_pos)
    if kinds != ("factorized", "factorized"):
        raise ValueError(
            f"patch_pos is {kinds[0]} below and {kinds[1]} here; only factorized tables can grow"
        )
    (times, *sides), (up_times, *up_sides) = below.groups, up.groups
    if times != up_times or any(b % a for a, b in zip(sides, up_sides, strict=True)):
        raise ValueError(
            f"groups (time, height, width) {up.groups} are not those below, {below.groups}, "
            "divided in height and width"
        )


def _wider_stem(weight: Tensor, up: FitConfig, below: FitConfig) -> Tensor:
    extra = (up.in_channels - below.in_channels) * up.patch_values
    return torch.cat([weight, weight.new_zeros(weight.shape[0], extra)], dim=1)


def _larger_space(table: Tensor, up: FitConfig, below: FitConfig) -> Tensor:
    rows, columns = below.grid[1:]
    image = torch.unflatten(table, 0, (rows, columns))[: below.height // below.patch]
    image = image.permute(2, 0, 1)[None]
    large = functional.interpolate(image, up.grid[1:], mode="bilinear", align_corners=False)
    return large[0].permute(1, 2, 0).flatten(0, 1)


def _dealt_latents(latents: Tensor, up: FitConfig, below: FitConfig) -> Tensor:
    """Deal each parent group's latents, row by row, to the child groups inside it."""
    times, rows, columns = below.groups
    by_rows, by_columns = up.groups[1] // rows, up.groups[2] // columns
    x = torch.unflatten(latents, 0, (times, rows, columns, by_rows, by_columns, -1))
    return x.permute(0, 1, 3, 2, 4, 5, 6).flatten(0, 5)
