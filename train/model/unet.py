"""The U-Net baselines: a convolutional network over single frames that attention ties together.

The architecture is ADM (Dhariwal and Nichol, arXiv 2105.05233): residual blocks with scale-shift
norms that also change the resolution, and attention at the coarser resolutions. For videos every
attention site has three parts in a row: over the pixels of a frame, over the conditioning, and over
time at each pixel. Frames are part of the batch everywhere else. It is what FIT is measured against
(Snap Video, arXiv 2402.14797, Table 7), so it hands no latents over.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from train.model.fit import Conditioning
from train.model.fit_checks import check_inputs, check_numbers
from train.model.unet_layers import (
    NORM_GROUPS,
    CrossAttention,
    FrameNorm,
    ResBlock,
    SelfAttention,
    TimeAttention,
    zeroed,
)

FRAMERATE_FEATURES = 32
_AT_LEAST_ONE = (
    "frames", "height", "width", "inside_height", "base", "text_width", "res_blocks",
    "embedding_width", "context_width", "head",
)  # fmt: skip


@dataclass(frozen=True)
class UNetConfig:
    """The shape of one U-Net; lengths in pixels, widths in channels."""

    frames: int
    height: int
    width: int
    base: int
    """Channels at full resolution."""
    multiples: tuple[int, ...]
    """Channels of each level, in units of `base`; a level has half the resolution of the last."""
    text_width: int
    inside_height: int = 0
    """Height inside the network, rows of zeros at the bottom included; 0 is `height`."""
    res_blocks: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    attention: tuple[int, ...] = (2, 4, 8)
    """Levels with attention, by the factor that they are smaller than the frame."""
    embedding_width: int = 768
    context_width: int = 768
    head: int = 64
    dropout: float = 0.1
    checkpointing: bool = False
    position_std: float = 0.02
    """Standard deviation of the tables that tell frames apart, at the start."""

    def __post_init__(self) -> None:
        if not self.inside_height:
            object.__setattr__(self, "inside_height", self.height)
        check_numbers(self, _AT_LEAST_ONE)
        self._check_levels()

    def _check_levels(self) -> None:
        """Refuse sides and widths that the levels do not divide, and attention at none of them."""
        levels = [2**level for level in range(len(self.multiples))]
        if not levels or not set(self.attention) <= set(levels):
            raise ValueError(
                f"attention {self.attention} must name levels; those of multiples {self.multiples} "
                f"are {levels}"
            )
        if self.inside_height < self.height:
            raise ValueError(
                f"inside_height ({self.inside_height}) must not be below height ({self.height})"
            )
        factor = 2 ** (len(self.multiples) - 1)
        for name in ("inside_height", "width"):
            if getattr(self, name) % factor:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be a multiple of {factor} for "
                    f"{len(self.multiples)} levels"
                )
        for level, multiple in enumerate(self.multiples):
            unit = max(NORM_GROUPS, self.head if 2**level in self.attention else 0)
            if multiple * self.base % unit:
                raise ValueError(
                    f"level {level} is {multiple} * base ({self.base}) channels wide; its norms "
                    f"and heads need a multiple of {unit}"
                )

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Channel, time, height, width of the clips it denoises."""
        return 3, self.frames, self.height, self.width

    @property
    def low_res(self) -> bool:
        """Whether it reads a lower stage's clip; a U-Net is a first stage only."""
        return False

    @property
    def carries(self) -> bool:
        """Whether one evaluation hands latents to the next; only a FIT does."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` takes them back."""
        lists = {"multiples": list(self.multiples), "attention": list(self.attention)}
        return {"kind": "unet"} | asdict(self) | lists

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the config that `to_dict` described."""
        plain = {name: value for name, value in values.items() if name != "kind"}
        tuples = {name: tuple(plain[name]) for name in ("multiples", "attention")}
        return cls(**(plain | tuples))


class Step(nn.Module):
    """A residual block and, at some resolutions, the three kinds of attention behind it."""

    def __init__(
        self,
        width: int,
        out_width: int,
        config: UNetConfig,
        *,
        attends: bool = False,
        resample: float = 1.0,
    ) -> None:
        super().__init__()
        self.block = ResBlock(width, out_width, config.embedding_width, config.dropout, resample)
        head = config.head
        self.space = SelfAttention(out_width, head) if attends else None
        self.cross = CrossAttention(out_width, config.context_width, head) if attends else None
        self.time = (
            TimeAttention(out_width, head, config.frames, config.position_std) if attends else None
        )

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Return [b*t, out_width, h', w']."""
        x = self.block(x, embedding)
        if self.space is not None and self.cross is not None and self.time is not None:
            x = x + self.space(x)
            x = x + self.cross(x, context, mask)
            x = x + self.time(x)
        return x


class UNet(nn.Module):
    """The network F of the diffusion, as a U-Net; called like a `Fit`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        context, embedding, hidden = config.context_width, config.embedding_width, 4 * config.base
        self.text = nn.Linear(config.text_width, context, bias=False)
        self.framerate = _mlp(FRAMERATE_FEATURES, hidden, context, nn.GELU())
        self.resolution = _mlp(2, hidden, context, nn.GELU())
        self.noise = _mlp(config.base, embedding, embedding, nn.SiLU())
        self.mean_text = nn.Linear(context, embedding)
        self.stem = nn.Conv2d(3, config.base, 3, padding=1)
        self.down, widths = _way_down(config)
        bottom = widths[-1]
        self.middle = nn.ModuleList(
            [Step(bottom, bottom, config, attends=True), Step(bottom, bottom, config)]
        )
        self.up = _way_up(config, widths)
        self.out_norm = FrameNorm(config.base * config.multiples[0])
        self.out = zeroed(nn.Conv2d(config.base * config.multiples[0], 3, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        cond: Conditioning,
        prev_latents: Tensor | None = None,
        prev_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Return (F [b, 3, t, h, w], None); a U-Net has no latents to take or to give.

        Args:
            x: Noisy clip times c_in [b, 3, t, h, w], without padding.
            c_noise: ln(sigma)/4 [b].
            cond: What is known about each clip.
            prev_latents: None.
            prev_mask: Of no effect, as for a `Fit` without `prev_latents`.

        Raises:
            ValueError: A tensor has another shape than this network's.
        """
        check_inputs(self.config, x, cond)
        if prev_latents is not None:
            raise ValueError("a U-Net takes no latents of an earlier evaluation; pass None")
        given = self._conditioning(c_noise, cond)
        hidden = self.stem(self._frames(x))
        skips = [hidden]
        for step in self.down:
            hidden = self._through(step, hidden, given)
            skips.append(hidden)
        for step in self.middle:
            hidden = self._through(step, hidden, given)
        for step in self.up:
            assert isinstance(step, Step)
            if step.block.resample == 1:  # the steps that enlarge have no counterpart going down
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = self._through(step, hidden, given)
        f = self.out(functional.silu(self.out_norm(hidden)))
        clips = torch.unflatten(f[:, :, : self.config.height], 0, (-1, self.config.frames))
        return clips.transpose(1, 2), None

    def _frames(self, x: Tensor) -> Tensor:
        """Return the frames of all clips [b*t, 3, inside_height, w]."""
        x = functional.pad(x, (0, 0, 0, self.config.inside_height - self.config.height))
        frames = x.transpose(1, 2).flatten(0, 1)
        return frames.contiguous(memory_format=torch.channels_last)

    def _conditioning(self, c_noise: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor, Tensor]:
        """Return (embedding [b, e], context tokens [b, n, k], which of them count [b, n])."""
        text, text_mask = cond.heard(self.text(cond.text))
        counted = (text * text_mask[..., None]).sum(1)
        mean = counted / text_mask.sum(1, keepdim=True).clamp(min=1)
        noise = self.noise(_sinusoid(c_noise, self.config.base))
        framerate = self.framerate(_sinusoid(cond.framerate, FRAMERATE_FEATURES))
        resolution = self.resolution(cond.resolution) * cond.resolution_known[:, None]
        tokens = torch.stack([framerate, resolution], dim=1)
        context = torch.cat([text, tokens], dim=1)
        mask = torch.cat([text_mask, text_mask.new_ones(tokens.shape[:2])], dim=1)
        return noise + self.mean_text(mean), context, mask

    def _through(self, step: nn.Module, x: Tensor, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Run a step; recompute it in the backward pass where the config says so."""
        if self.config.checkpointing and self.training:
            again: Tensor = checkpoint(step, x, *given, use_reentrant=False)
            return again
        out: Tensor = step(x, *given)
        return out


def _way_down(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """Return the steps from full resolution to the smallest, and the width before and after each.

    A level ends, but for the last, with a step that halves the resolution.
    """
    steps, widths = nn.ModuleList(), [config.base]
    for level, multiple in enumerate(config.multiples):
        attends = 2**level in config.attention
        for _ in range(config.res_blocks):
            steps.append(Step(widths[-1], multiple * config.base, config, attends=attends))
            widths.append(multiple * config.base)
        if level + 1 < len(config.multiples):
            steps.append(Step(widths[-1], widths[-1], config, resample=0.5))
            widths.append(widths[-1])
    return steps, widths


def _way_up(config: UNetConfig, widths: list[int]) -> nn.ModuleList:
    """Return the steps back; each but the enlarging ones also reads its counterpart's output."""
    steps, left, width = nn.ModuleList(), list(widths), widths[-1]
    for level, multiple in reversed(list(enumerate(config.multiples))):
        attends, out_width = 2**level in config.attention, multiple * config.base
        for _ in range(config.res_blocks + 1):
            steps.append(Step(width + left.pop(), out_width, config, attends=attends))
            width = out_width
        if level:
            steps.append(Step(width, width, config, resample=2.0))
    return steps


def _mlp(width: int, hidden: int, out_width: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, out_width))


def _sinusoid(value: Tensor, width: int) -> Tensor:
    """Return [b, width]: sines and cosines of values [b] at angular frequencies 0.1 to 100."""
    frequencies = torch.logspace(-1, 2, width // 2, device=value.device)
    phase = value[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=1)
