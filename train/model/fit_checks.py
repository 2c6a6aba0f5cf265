"""What networks refuse: shapes that cannot be built, and tensors that are not of their shape."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from train.model.fit import Conditioning, FitConfig
    from train.model.unet import UNetConfig

_AT_LEAST_ONE = (
    "frames", "height", "width", "inside_height", "patch", "patch_frames", "patch_width",
    "latent_width", "context_width", "latents", "blocks", "layers", "patch_head",
    "latent_head", "text_width",
)  # fmt: skip


def check_config(config: "FitConfig") -> None:
    """Refuse the shape of a FIT that cannot be built.

    Raises:
        ValueError: A length is below 1; patches or groups do not fill the clip; heads do not divide
            a width.
    """
    check_numbers(config, _AT_LEAST_ONE)
    if min(config.group) < 1:
        raise ValueError(f"group must be three lengths of 1 or more, got {config.group}")
    _check_patches(config)
    _check_heads(config)


def check_latents(config: "FitConfig", x: Tensor, prev_latents: Tensor | None) -> None:
    """Refuse latents of another network.

    Raises:
        ValueError: They have another shape than this network's.
    """
    if prev_latents is not None:
        wanted = (x.shape[0], config.latents, config.latent_width)
        _check_shape("prev_latents", prev_latents, wanted)


def check_inputs(config: "FitConfig | UNetConfig", x: Tensor, cond: "Conditioning") -> None:
    """Refuse tensors of another shape, which is known without waiting for a device.

    Raises:
        ValueError: A tensor has another shape than this network's, or is missing.
    """
    batch = x.shape[0]
    _check_shape("the clip", x, (batch, *config.clip_shape))
    tokens = cond.text_mask.shape[-1]
    _check_shape("the text", cond.text, (batch, tokens, config.text_width))
    if not config.low_res:
        if cond.low_res is not None:
            raise ValueError("this network is no upsampler; leave low_res None")
        return
    if cond.low_res is None or cond.c_aug is None:
        raise ValueError(
            "an upsampler needs the lower stage's clip and its noise level; give both to the "
            "conditioning (with_low_res)"
        )
    _check_shape("the lower stage's clip", cond.low_res, (batch, *config.clip_shape))


def check_numbers(config: "FitConfig | UNetConfig", names: Sequence[str]) -> None:
    """Refuse lengths and counts below 1, and a dropout outside of [0, 1).

    Raises:
        ValueError: One of the fields in `names` is below 1, or dropout is out of range.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be 1 or more, got {getattr(config, name)}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout must be 0 or more and below 1, got {config.dropout}")


def _check_patches(config: "FitConfig") -> None:
    """Refuse clips that patches or groups do not fill, and latents that groups cannot share."""
    if config.inside_height < config.height:
        raise ValueError(
            f"inside_height ({config.inside_height}) must be height ({config.height}) or more; "
            "0 is height"
        )
    if config.frames % config.patch_frames:
        raise ValueError(
            f"patch_frames ({config.patch_frames}) must divide frames ({config.frames})"
        )
    for name in ("inside_height", "width"):
        if getattr(config, name) % config.patch:
            raise ValueError(
                f"{name} ({getattr(config, name)}) must be a multiple of patch ({config.patch})"
            )
    for side, group in zip(config.grid, config.group, strict=True):
        if side % group:
            raise ValueError(f"group {config.group} does not divide the patch grid {config.grid}")
    if config.latents % config.num_groups:
        raise ValueError(f"latents ({config.latents}) must split over {config.num_groups} groups")


def _check_heads(config: "FitConfig") -> None:
    """Refuse heads that the width of an attention cannot be divided into."""
    p, z, c = config.patch_width, config.latent_width, config.context_width
    for name, head, whose, inner in (
        ("latent_head", config.latent_head, "latent_width", z),
        ("latent_head", config.latent_head, "min(latent_width, context_width)", min(z, c)),
        ("patch_head", config.patch_head, "min(patch_width, latent_width)", min(p, z)),
    ):
        if inner % head:
            raise ValueError(f"{name} ({head}) must divide {whose} ({inner})")


def _check_shape(name: str, value: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(value.shape) != wanted:
        raise ValueError(f"{name} is {tuple(value.shape)}; this network takes {wanted}")
