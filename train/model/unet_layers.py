"""The parts a U-Net is built from: norm, residual block, and attention over space, text and time.

Activations are `(batch*time, channel, height, width)` in channels-last memory: pixels become
attention's tokens, and tokens pixels, without a copy. Layers that end a residual branch start at
zero, as in ADM (Dhariwal and Nichol, arXiv 2105.05233).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_GROUPS = 32


class FrameNorm(nn.GroupNorm):
    """GroupNorm of single frames that gives channels-last memory back on every device."""

    def __init__(self, width: int) -> None:
        super().__init__(NORM_GROUPS, width)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [n, c, h, w]."""
        return super().forward(x).contiguous(memory_format=torch.channels_last)


class ResBlock(nn.Module):
    """Two convolutions with a residual; the second is scaled and shifted by the embedding.

    `resample` is 2 where it doubles the resolution, 0.5 where it halves it.
    """

    def __init__(
        self, width: int, out_width: int, embedding_width: int, dropout: float, resample: float
    ) -> None:
        super().__init__()
        self.resample, self.dropout = resample, dropout
        self.norm = FrameNorm(width)
        self.conv = nn.Conv2d(width, out_width, 3, padding=1)
        self.embedding = nn.Linear(embedding_width, 2 * out_width)
        self.out_norm = FrameNorm(out_width)
        self.out = zeroed(nn.Conv2d(out_width, out_width, 3, padding=1))
        self.skip = nn.Conv2d(width, out_width, 1) if width != out_width else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return [b*t, out_width, h', w'] for x [b*t, width, h, w] and embedding [b, e]."""
        hidden = functional.silu(self.norm(x))
        hidden, x = (_resampled(part, self.resample) for part in (hidden, x))
        hidden = self.out_norm(self.conv(hidden))
        scale, shift = self._modulation(embedding, hidden.shape[0])
        hidden = functional.silu(torch.addcmul(shift, hidden, 1 + scale))
        hidden = functional.dropout(hidden, self.dropout, self.training)
        out: Tensor = (x if self.skip is None else self.skip(x)) + self.out(hidden)
        return out

    def _modulation(self, embedding: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        both = self.embedding(functional.silu(embedding))[:, None]
        both = both.expand(-1, frames // embedding.shape[0], -1).flatten(0, 1)
        scale, shift = both[..., None, None].chunk(2, dim=1)
        return scale, shift


class SelfAttention(nn.Module):
    """Attention among the pixels of each frame."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.heads = width // head
        self.norm = FrameNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of x [b*t, c, h, w]."""
        return _image(self.attend(_tokens(self.norm(x))), x)

    def attend(self, tokens: Tensor) -> Tensor:
        """Return what tokens [n, i, c] gather from each other."""
        qkv = torch.unflatten(self.qkv(tokens), 2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        gathered = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return out


class TimeAttention(SelfAttention):
    """Attention among the frames at each pixel; a learned table tells the frames apart."""

    def __init__(self, width: int, head: int, frames: int, position_std: float) -> None:
        super().__init__(width, head)
        self.positions = nn.Parameter(position_std * torch.randn(frames, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of x [b*t, c, h, w]."""
        tokens = torch.unflatten(_tokens(self.norm(x)), 0, (-1, len(self.positions)))
        tokens = tokens.transpose(1, 2) + self.positions  # b (h w) t c
        gathered = torch.unflatten(self.attend(tokens.flatten(0, 1)), 0, tokens.shape[:2])
        return _image(gathered.transpose(1, 2).flatten(0, 1), x)


class CrossAttention(nn.Module):
    """Attention from the pixels of a clip to its conditioning."""

    def __init__(self, width: int, context_width: int, head: int) -> None:
        super().__init__()
        self.heads = width // head
        self.norm = FrameNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Return the update of x [b*t, c, h, w] from context [b, n, k] where mask [b, n]."""
        frames = x.shape[0] // context.shape[0]
        queries = torch.unflatten(_tokens(self.norm(x)), 0, (-1, frames)).flatten(1, 2)
        q = torch.unflatten(self.q(queries), 2, (self.heads, -1)).transpose(1, 2)
        kv = torch.unflatten(self.kv(context), 2, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4).unbind()
        gathered = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        out = torch.unflatten(self.out(gathered.transpose(1, 2).flatten(2)), 1, (frames, -1))
        return _image(out.flatten(0, 1), x)


def _resampled(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    if factor < 1:
        return functional.avg_pool2d(x, 2)
    return functional.interpolate(x, scale_factor=factor, mode="nearest")


def _tokens(x: Tensor) -> Tensor:
    """Return the pixels of [n, c, h, w] as [n, h*w, c], a view in channels-last memory."""
    return x.flatten(2).transpose(1, 2)


def _image(tokens: Tensor, like: Tensor) -> Tensor:
    """Return tokens [n, h*w, c] in the shape of `like` [n, c, h, w]."""
    return torch.unflatten(tokens.transpose(1, 2), 2, like.shape[2:])


def zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Return a layer that gives zeros until it has learned something, as in ADM."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
