"""What a preset costs before any of it is bought: parameters, FLOPs and memory.

Measured on tensors that have no memory (`train.meter`), so the largest preset takes seconds on a
laptop; no Ray, no DeepSpeed, no GPU.

    print(render(describe("fit-3.9b", Setup(workers=8, batch=4))))

Memory is what PyTorch asks its allocator for. A CUDA context, fragmentation and the libraries' own
workspaces come on top; how it compares with real runs is in `infra/bench/README.md`.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import ConfigError
from train.diffusion.edm import Draws, Edm, training_loss
from train.diffusion.edm import Network as Called
from train.diffusion.guidance import Guidance, GuidedDenoiser, Known
from train.footprint import STAGES, WORD, Activations, Precision, TrainingMemory, training_memory
from train.meter import Meter, pretended, real
from train.model.fit import Conditioning, FitConfig
from train.model.networks import ModelConfig, Network, build
from train.model.presets import PRESETS

_FIT_PARTS = {
    "stem": "stem", "stem_norm": "stem",
    "time_pos": "tables", "space_pos": "tables", "latents": "tables",
    "carry_ff": "self-conditioning", "carry_norm": "self-conditioning",
    "text": "context tokens", "noise": "context tokens", "framerate": "context tokens",
    "resolution": "context tokens", "aug": "context tokens",
    "out_norm": "output", "out": "output",
}  # fmt: skip
_BLOCK_PARTS = {
    "context": "blocks: context read", "context_ff": "blocks: context read",
    "read": "blocks: read", "read_ff": "blocks: read",
    "selves": "blocks: global layers", "self_ffs": "blocks: global layers",
    "write": "blocks: write", "write_ff": "blocks: write",
}  # fmt: skip
_PLAIN = "without guidance"
ASKED = {
    _PLAIN: (Guidance(scale=1), False),
    "with guidance": (Guidance(), False),
    "with guidance and known frames": (Guidance(), True),
}


@dataclass(frozen=True)
class Setup:
    """How a preset is trained and asked.

    Attributes:
        batch: Clips of one worker in one pass.
        workers: Workers that ZeRO shards among.
        precision: Of matrix products in training.
        checkpointing: Whether blocks are computed anew in the backward pass.
        text_tokens: Text tokens per clip.
        text_width: Width of the text encoder; 0 is the preset's own.
    """

    batch: int = 1
    workers: int = 1
    precision: Precision = "bf16"
    checkpointing: bool = False
    text_tokens: int = 128
    text_width: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "workers", "text_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is too few; say 1 or more")
        if self.text_width < 0:
            raise ConfigError(f"text_width: {self.text_width}; say 0 for the preset's, or a width")


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes held while one clip is sampled in fp32: the weights, and the most besides them."""

    how: str
    weights: int
    activations: int


@dataclass(frozen=True)
class Description:
    """What a preset costs; FLOPs are for one clip, two to a multiply-add.

    Attributes:
        preset: Its name.
        setup: What the rest holds for.
        config: The shape.
        parts: Parameters by part of the network.
        forward_flops: Of one forward pass.
        step_flops: Of one training step: the pass without gradients where latents are handed over,
            a forward and a backward pass, and what checkpointing computes anew.
        training: Memory of one worker at ZeRO stages 0 to 3.
        sampling: Memory of sampling without guidance, with it, and with known frames.
    """

    preset: str
    setup: Setup
    config: ModelConfig
    parts: dict[str, int]
    forward_flops: int
    step_flops: int
    training: tuple[TrainingMemory, ...]
    sampling: tuple[SamplingMemory, ...]

    @property
    def num_parameters(self) -> int:
        """Parameters in all."""
        return sum(self.parts.values())


def describe(preset: str, setup: Setup | None = None) -> Description:
    """Return what a preset costs.

    Raises:
        ConfigError: There is no such preset.
    """
    setup = setup or Setup()
    config = _config(preset, setup)
    with pretended():
        network = build(config)
        trained = training_pass(preset, network.train(), setup)
        network.eval().requires_grad_(requires_grad=False)
        asked = {how: evaluation(network, setup, *what) for how, what in ASKED.items()}
    sizes = [param.numel() for param in network.parameters()]
    held = Activations(sharded=trained.peak_bytes_aside, with_gradients=trained.peak_bytes)
    return Description(
        preset=preset,
        setup=setup,
        config=config,
        parts=parameters_by_part(network),
        forward_flops=asked[_PLAIN].flops,
        step_flops=trained.flops // setup.batch,
        training=tuple(
            training_memory(stage, sizes, held, setup.workers, setup.precision) for stage in STAGES
        ),
        sampling=tuple(
            SamplingMemory(how, WORD * sum(sizes), meter.peak_bytes) for how, meter in asked.items()
        ),
    )


def parameters_by_part(network: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each part, the blocks of a FIT by what they do."""
    parts: dict[str, int] = {}
    for name, param in network.named_parameters():
        first, *rest = name.split(".")
        known = isinstance(getattr(network, "config", None), FitConfig)
        part = _BLOCK_PARTS[rest[1]] if known and first == "blocks" else _FIT_PARTS.get(first)
        part = part if known and part else first
        parts[part] = parts.get(part, 0) + param.numel()
    return parts


def conditioning(config: ModelConfig, batch: int, text_tokens: int) -> Conditioning:
    """Return the conditioning of a batch, all texts of full length, values of no meaning."""
    low = torch.zeros(batch, *config.clip_shape) if config.low_res else None
    return Conditioning(
        text=torch.zeros(batch, text_tokens, config.text_width),
        text_mask=torch.ones(batch, text_tokens, dtype=torch.bool),
        drop=torch.zeros(batch, dtype=torch.bool),
        framerate=torch.ones(batch),
        resolution=torch.zeros(batch, 2),
        resolution_known=torch.ones(batch, dtype=torch.bool),
        low_res=low,
        c_aug=None if low is None else torch.zeros(batch),
    )


def _config(preset: str, setup: Setup) -> ModelConfig:
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(PRESETS)}"
        raise ConfigError(f"preset: unknown '{preset}'; {hint}")
    config = PRESETS[preset]
    return replace(
        config,
        checkpointing=setup.checkpointing,
        text_width=setup.text_width or config.text_width,
    )


def in_precision(network: Callable[..., Any], kind: torch.dtype, device: str = "cpu") -> Called:
    """Return the network with its matrix products in `kind`; float32 leaves it as it is."""

    def cast(
        x: Tensor,
        c_noise: Tensor,
        cond: Conditioning,
        prev_latents: Tensor | None = None,
        prev_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(device, kind, enabled=kind != torch.float32):
            f, latents = network(x, c_noise, cond, prev_latents, prev_mask)
        return f, latents

    return cast


def training_pass(preset: str, network: Network, setup: Setup) -> Meter:
    """Return the meter of a worker's forward and backward pass."""
    config = network.config
    kind = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    cast = in_precision(network, kind)
    meter = Meter(network.parameters())
    with meter:
        meter.gradients_of(network)
        clips = torch.zeros(setup.batch, *config.clip_shape)
        cond = conditioning(config, setup.batch, setup.text_tokens)
        draws = _draws(preset, config, clips)
        torch.autograd.backward(training_loss(cast, clips, cond, Edm(), draws).mean())
    return meter


def _draws(preset: str, config: ModelConfig, clips: Tensor) -> Draws:
    batch = clips.shape[0]
    ones, yes = torch.ones(batch), torch.ones(batch, dtype=torch.bool)
    below = PRESETS[preset.removesuffix("-up")].clip_shape
    return Draws(
        sigma=ones,
        noise=torch.zeros_like(clips),
        drop=~yes,
        carry=yes if config.carries else None,
        sigma_aug=ones if config.low_res else None,
        noise_aug=torch.zeros(batch, *below) if config.low_res else None,
    )


def evaluation(network: Network, setup: Setup, guidance: Guidance, known: bool) -> Meter:
    """Return the meter of one denoiser evaluation for one clip, with latents handed over."""
    config = network.config
    with real():
        shape = config.clip_shape
        given = Known(torch.zeros(1, *shape), torch.ones(1, shape[1], dtype=torch.bool))
    meter = Meter(network.parameters())
    with meter:
        x, sigma = torch.zeros(1, *shape).double(), torch.ones(()).double()
        cond = conditioning(config, 1, setup.text_tokens)
        latents = None
        if isinstance(config, FitConfig):
            branches = 2 if guidance.guided else 1
            latents = torch.zeros(1, branches, config.latents, config.latent_width)
        with real():
            denoise = GuidedDenoiser(network, Edm(), cond, guidance, known=given if known else None)
        denoise(x, sigma, (0, 1), latents)
    return meter


def render(description: Description) -> str:
    """Return a description as aligned text: parameters, FLOPs, training, sampling."""
    blocks = [_head(description), _training(description), _sampling(description)]
    return "\n\n".join("\n".join(block) for block in blocks)


def _head(it: Description) -> list[str]:
    width = max(map(len, it.parts))
    _, frames, height, columns = it.config.clip_shape
    return [
        f"{it.preset}: clips of {frames} frames, {height}x{columns} px",
        "",
        f"{'parameters':<{width + 2}}  {it.num_parameters:>13,}",
        *(
            f"  {part:<{width}}  {count:>13,}  {count / it.num_parameters:6.1%}"
            for part, count in it.parts.items()
        ),
        "",
        f"FLOPs of one clip, {it.setup.text_tokens} text tokens, 2 to a multiply-add",
        f"  one forward pass   {it.forward_flops / 1e12:10.4g} T",
        f"  one training step  {it.step_flops / 1e12:10.4g} T"
        f"  ({it.step_flops / it.forward_flops:.2f} forward passes)",
    ]


def _training(it: Description) -> list[str]:
    setup = it.setup
    names = ("weights", "gradients", "optimizer", "buffers", "activations", "peak")
    return [
        f"memory of each training worker ({setup.workers} in all, {setup.batch} clip(s) each, "
        f"{setup.precision}, checkpointing {'on' if setup.checkpointing else 'off'})",
        "  ZeRO  " + "".join(f"{name:>12}" for name in names),
        *(
            f"  {row.stage:<6}" + "".join(f"{_size(getattr(row, name)):>12}" for name in names)
            for row in it.training
        ),
    ]


def _sampling(it: Description) -> list[str]:
    width = max(len(row.how) for row in it.sampling)
    return [
        "memory of sampling (1 clip, fp32)",
        f"  {'':<{width}}{'weights':>12}{'activations':>12}{'peak':>12}",
        *(
            f"  {row.how:<{width}}{_size(row.weights):>12}{_size(row.activations):>12}"
            f"{_size(row.weights + row.activations):>12}"
            for row in it.sampling
        ),
    ]


def _size(num_bytes: int) -> str:
    gib = num_bytes / 2**30
    return f"{gib:.2f} GiB" if gib >= 1 else f"{1024 * gib:.1f} MiB"
