"""FIT: a transformer that denoises a whole clip through a small set of latent tokens.

Pixels become patch tokens, cut into groups. In every block the latents of a group read its
patches, all latents of all groups think together, and the patches of the group read the result
back, so the expensive part sees a few hundred tokens instead of every patch (Snap Video,
arXiv 2402.14797, Sec. 3.3). The latents of one evaluation may be handed to the next one, which is
the network's self-conditioning.

Tensors are `(batch, channel, time, height, width)`; `Fit` knows one device and no cluster.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from train.model.checks import above_zero
from train.model.fit_checks import check_config, check_inputs, check_latents
from train.model.layers import Attention, FeedForward, Norm, ScalarEmbedding


@dataclass(frozen=True)
class FitConfig:
    """The shape of one FIT; every length in pixels, patches or channels as named."""

    frames: int
    height: int
    width: int
    group: tuple[int, int, int]
    patch_width: int
    latent_width: int
    context_width: int
    latents: int
    blocks: int
    layers: int
    patch_head: int
    latent_head: int
    text_width: int
    inside_height: int = 0
    patch: int = 4
    patch_frames: int = 1
    """Frames that one patch spans; the paper's patches are 1x4x4."""
    read_write_ff: bool = True
    """Whether a feed-forward follows the read and the write of each block."""
    low_res: bool = False
    dropout: float = 0.1
    patch_pos: Literal["factorized", "full", "group"] = "factorized"
    qk_norm: bool = False
    checkpointing: bool = False
    init_gain: float = 1 / math.sqrt(3)
    """Factor on PyTorch's first weights of stem, blocks and output; sqrt(3) keeps the variance
    from layer to layer, without which the text is barely heard in a small network."""
    position_std: float = 0.02
    """Standard deviation of the position tables at the start; patches enter with 1."""
    latent_std: float = 0.02
    """Standard deviation of the latents at the start."""

    def __post_init__(self) -> None:
        if not self.inside_height:
            object.__setattr__(self, "inside_height", self.height)
        check_config(self)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along time, height (padding included) and width."""
        patch = self.patch
        return self.frames // self.patch_frames, self.inside_height // patch, self.width // patch

    @property
    def groups(self) -> tuple[int, int, int]:
        """Groups along time, height and width."""
        t, h, w = (side // group for side, group in zip(self.grid, self.group, strict=True))
        return t, h, w

    @property
    def num_groups(self) -> int:
        """Groups of patches in a clip."""
        return math.prod(self.groups)

    @property
    def in_channels(self) -> int:
        """Channels that enter the stem: the noisy clip, and the low-resolution one if any."""
        return 6 if self.low_res else 3

    @property
    def patch_values(self) -> int:
        """Values of one channel in a patch: its frames, rows and columns."""
        return self.patch_frames * self.patch**2

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Channel, time, height, width of the clips it denoises."""
        return 3, self.frames, self.height, self.width

    @property
    def carries(self) -> bool:
        """Whether one evaluation hands latents to the next."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` takes them back."""
        return asdict(self) | {"group": list(self.group)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the config that `to_dict` described."""
        return cls(**(values | {"group": tuple(values["group"])}))


@dataclass(frozen=True)
class Conditioning:
    """What the network is told about each clip besides its noisy pixels.

    Attributes:
        text: Text encoder states [batch, tokens, text_width].
        text_mask: True where `text` holds a token, not padding [batch, tokens].
        drop: True where the text is to be ignored [batch].
        framerate: `framerate_token` of each clip [batch].
        resolution: `resolution_token` of each source [batch, 2].
        resolution_known: False replaces the resolution token by zeros [batch].
        low_res: Noised, upsampled lower stage in the size of the clip [batch, 3, t, h, w], or None.
        c_aug: ln(sigma_aug)/4, the noise added to `low_res` [batch], or None.
    """

    text: Tensor
    text_mask: Tensor
    drop: Tensor
    framerate: Tensor
    resolution: Tensor
    resolution_known: Tensor
    low_res: Tensor | None = None
    c_aug: Tensor | None = None

    def without_text(self) -> "Conditioning":
        """Return the same conditioning with every text ignored, for guidance."""
        return replace(self, drop=torch.ones_like(self.drop))

    def with_drop(self, drop: Tensor) -> "Conditioning":
        """Return the same conditioning with the texts at `drop` [batch] ignored."""
        return replace(self, drop=drop)

    def heard(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return (tokens, which of them may be read [batch, tokens]) of `projected` texts.

        Where the text is to be ignored all tokens are zero and only the first may be read.
        """
        kept = ~self.drop[:, None]
        first = torch.zeros_like(self.text_mask)
        first[:, 0] = True
        return projected * kept[..., None], torch.where(kept, self.text_mask, first)

    def with_low_res(self, low_res: Tensor, c_aug: Tensor) -> "Conditioning":
        """Return the same conditioning with the lower stage's clip attached."""
        return replace(self, low_res=low_res, c_aug=c_aug)

    def to(self, target: torch.device | str) -> "Conditioning":
        """Return a copy on another device."""
        moved = {name: value.to(target) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    @staticmethod
    def cat(first: "Conditioning", second: "Conditioning") -> "Conditioning":
        """Stack two conditionings along the batch."""
        joined = {
            name: torch.cat([value, getattr(second, name)])
            for name, value in vars(first).items()
            if value is not None
        }
        return Conditioning(**joined)


def framerate_token(fps: Tensor) -> Tensor:
    """Return log2(1 + 24/fps): 0 for a still (infinite fps), 1 at 24 fps, 2 at 8 fps.

    Raises:
        ValueError: A framerate is 0, negative or not a number.
    """
    above_zero(fps, "fps", "a still has infinity")
    return torch.log2(1 + 24 / fps)


def resolution_token(height: Tensor, width: Tensor) -> Tensor:
    """Return [batch, 2]: log2 of the source's height and width in units of 64 px.

    Raises:
        ValueError: A length is 0, negative or not a number.
    """
    for name, length in (("source height", height), ("source width", width)):
        above_zero(length, name, "say resolution_known False where it is not known")
    return torch.stack([torch.log2(height / 64), torch.log2(width / 64)], dim=-1)


class Block(nn.Module):
    """One round: latents read the context and the patches, think, and write to the patches."""

    def __init__(self, config: FitConfig) -> None:
        super().__init__()
        p, z, c = config.patch_width, config.latent_width, config.context_width
        qk = config.qk_norm
        self.groups = config.num_groups
        self.context = Attention(z, min(z, c), config.latent_head, key_width=c, qk_norm=qk)
        self.context_ff = FeedForward(z)
        self.read = Attention(z, min(p, z), config.patch_head, key_width=p, qk_norm=qk)
        self.read_ff = FeedForward(z) if config.read_write_ff else None
        self.selves = nn.ModuleList(
            Attention(z, z, config.latent_head, qk_norm=qk) for _ in range(config.layers)
        )
        self.self_ffs = nn.ModuleList(FeedForward(z, config.dropout) for _ in range(config.layers))
        self.write = Attention(p, min(p, z), config.patch_head, key_width=z, qk_norm=qk)
        self.write_ff = FeedForward(p) if config.read_write_ff else None

    def forward(
        self, patches: Tensor, latents: Tensor, context: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return new (patches [b*groups, n, P], latents [b, m, L])."""
        latents = latents + self.context(latents, context, mask)
        latents = latents + self.context_ff(latents)
        latents = self._grouped(latents)
        latents = latents + self.read(latents, patches)
        if self.read_ff is not None:
            latents = latents + self.read_ff(latents)
        latents = torch.unflatten(latents, 0, (-1, self.groups)).flatten(1, 2)
        for attention, feed_forward in zip(self.selves, self.self_ffs, strict=True):
            latents = latents + attention(latents)
            latents = latents + feed_forward(latents)
        patches = patches + self.write(patches, self._grouped(latents))
        if self.write_ff is not None:
            patches = patches + self.write_ff(patches)
        return patches, latents

    def _grouped(self, latents: Tensor) -> Tensor:
        return torch.unflatten(latents, 1, (self.groups, -1)).flatten(0, 1)


class Fit(nn.Module):
    """The network F of the diffusion: predicts the normalised mix of noise and clip."""

    def __init__(self, config: FitConfig) -> None:
        super().__init__()
        self.config = config
        p, z, c = config.patch_width, config.latent_width, config.context_width
        values = config.patch_values
        self.stem = nn.Linear(config.in_channels * values, p)
        self.stem_norm = nn.LayerNorm(p)
        self.time_pos = (
            _table(config.grid[0], p, config.position_std)
            if config.patch_pos == "factorized"
            else None
        )
        self.space_pos = _table(_space_rows(config), p, config.position_std)
        self.latents = _table(config.latents, z, config.latent_std)
        self.carry_ff = FeedForward(z)
        self.carry_norm = Norm(z, gain=0.0)
        self.text = nn.Linear(config.text_width, c, bias=False)
        self.noise = ScalarEmbedding(4 * p, c)
        self.framerate = ScalarEmbedding(4 * p, c)
        self.resolution = nn.Sequential(nn.Linear(2, 4 * p), nn.GELU(), nn.Linear(4 * p, c))
        self.aug = ScalarEmbedding(4 * p, c) if config.low_res else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.out_norm = Norm(p)
        self.out = nn.Linear(p, 3 * values)
        _scale(config.init_gain, self.stem, self.blocks, self.carry_ff, self.out)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        cond: Conditioning,
        prev_latents: Tensor | None = None,
        prev_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (F [b, 3, t, h, w], final latents [b, m, L]).

        Args:
            x: Noisy clip times c_in [b, 3, t, h, w], without padding.
            c_noise: ln(sigma)/4 [b].
            cond: What is known about each clip.
            prev_latents: Final latents of an earlier evaluation; used detached.
            prev_mask: False where `prev_latents` must not be used [b]; None uses all.

        Raises:
            ValueError: A tensor has another shape than this network's.
        """
        check_inputs(self.config, x, cond)
        check_latents(self.config, x, prev_latents)
        context, mask = self._context(c_noise, cond)
        latents = self._start(x.shape[0], prev_latents, prev_mask)
        patches = self._patchify(x, cond.low_res)
        for block in self.blocks:
            if self.config.checkpointing and self.training:
                patches, latents = checkpoint(
                    block, patches, latents, context, mask, use_reentrant=False
                )
            else:
                patches, latents = block(patches, latents, context, mask)
        return self._unpatchify(self.out(self.out_norm(patches))), latents

    def _context(self, c_noise: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        text, text_mask = cond.heard(self.text(cond.text))
        resolution = self.resolution(cond.resolution) * cond.resolution_known[:, None]
        scalars = [self.noise(c_noise), self.framerate(cond.framerate), resolution]
        if self.aug is not None and cond.c_aug is not None:
            scalars.append(self.aug(cond.c_aug))
        tokens = torch.stack(scalars, dim=1)
        always = text_mask.new_ones(tokens.shape[:2])
        return torch.cat([text, tokens], dim=1), torch.cat([text_mask, always], dim=1)

    def _start(self, batch: int, prev: Tensor | None, prev_mask: Tensor | None) -> Tensor:
        start = self.latents.expand(batch, -1, -1)
        if prev is None:
            return start
        carried: Tensor = self.carry_norm(self.carry_ff(prev.detach()))
        if prev_mask is not None:
            carried = carried * prev_mask[:, None, None]
        return start + carried

    def _patchify(self, x: Tensor, low_res: Tensor | None) -> Tensor:
        config = self.config
        if low_res is not None and config.low_res:
            x = torch.cat([x, low_res], dim=1)
        x = functional.pad(x, (0, 0, 0, config.inside_height - config.height))
        f, q = config.patch_frames, config.patch
        x = torch.unflatten(torch.unflatten(x, 4, (-1, q)), 3, (-1, q))  # b c tf h q w q
        x = torch.unflatten(x, 2, (-1, f))  # b c t f h q w q
        tokens = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)  # b t h w (c f q q)
        tokens = self.stem_norm(self.stem(tokens))
        if config.patch_pos == "group":
            return self._to_groups(tokens) + self.space_pos
        return self._to_groups(tokens + self._positions())

    def _positions(self) -> Tensor:
        if self.time_pos is None:
            return torch.unflatten(self.space_pos, 0, self.config.grid)
        space = torch.unflatten(self.space_pos, 0, self.config.grid[1:])
        positions: Tensor = self.time_pos[:, None, None] + space
        return positions

    def _to_groups(self, tokens: Tensor) -> Tensor:
        gt, gh, gw = self.config.group
        x = torch.unflatten(torch.unflatten(tokens, 3, (-1, gw)), 2, (-1, gh))
        x = torch.unflatten(x, 1, (-1, gt))
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)

    def _unpatchify(self, values: Tensor) -> Tensor:
        config, f, q = self.config, self.config.patch_frames, self.config.patch
        x = torch.unflatten(torch.unflatten(values, 1, config.group), 0, (-1, *config.groups))
        x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)  # b nt gt nh gh nw gw (c f q q)
        x = torch.unflatten(x.flatten(1, 2).flatten(2, 3).flatten(3, 4), 4, (3, f, q, q))
        x = x.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return x[:, :, :, : config.height]


def _table(rows: int, width: int, std: float) -> nn.Parameter:
    return nn.Parameter(std * torch.randn(rows, width))


def _space_rows(config: FitConfig) -> int:
    sizes = {"factorized": config.grid[1:], "full": config.grid, "group": config.group}
    return math.prod(sizes[config.patch_pos])


def _scale(gain: float, *modules: nn.Module) -> None:
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.Linear):
                with torch.no_grad():
                    part.weight.mul_(gain)
