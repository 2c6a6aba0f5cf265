"""The parts a FIT is built from: norm, attention, perceptron, and a token for a number."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_FREQUENCIES = 8


class ScalarEmbedding(nn.Module):
    """Turns one number per clip into a context token through learned Fourier features."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(NUM_FREQUENCIES))
        self.mlp = nn.Sequential(
            nn.Linear(1 + 2 * NUM_FREQUENCIES, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, value: Tensor) -> Tensor:
        """Return tokens [batch, width] for values [batch]."""
        column = value[:, None]
        phase = 2 * math.pi * column * self.frequencies
        token: Tensor = self.mlp(torch.cat([column, phase.sin(), phase.cos()], dim=-1))
        return token


class Norm(nn.Module):
    """LayerNorm with a gain and no bias."""

    def __init__(self, width: int, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), gain))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.layer_norm(x, self.gain.shape, self.gain, None, 1e-5)


class Attention(nn.Module):
    """Pre-norm attention without biases; self-attention where no key width is given."""

    def __init__(
        self, width: int, inner: int, head: int, *, key_width: int = 0, qk_norm: bool = False
    ) -> None:
        super().__init__()
        self.heads = max(inner // head, 1)
        self.query_norm = Norm(width)
        self.key_norm = Norm(key_width) if key_width else None
        self.q = nn.Linear(width, inner, bias=False)
        self.kv = nn.Linear(key_width or width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.qk_norm = qk_norm

    def forward(self, x: Tensor, keys: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return what `x` [n, i, width] gathers from `keys` [n, j, key_width] or itself.

        `mask` [n, j] is True where a key may be read.
        """
        x = self.query_norm(x)
        source = x if keys is None or self.key_norm is None else self.key_norm(keys)
        q = self._split(self.q(x))
        k, v = (self._split(part) for part in self.kv(source).chunk(2, dim=-1))
        if self.qk_norm:
            q, k = (functional.layer_norm(part, part.shape[-1:]) for part in (q, k))
        allowed = None if mask is None else mask[:, None, None, :]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Pre-norm two-layer perceptron; the caller adds the residual."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of `x` [..., width]."""
        hidden = functional.gelu(self.up(self.norm(x)))
        if self.dropout and self.training:
            hidden = functional.dropout(hidden, self.dropout)
        out: Tensor = self.down(hidden)
        return out
