"""How cost grows with the number of patch tokens: FIT against self-attention over all of them.

    python -m infra.bench.token_growth [--rounds 3]

The clip's sides grow 2 and 4 times, hence its tokens 4 and 16 times, while the latents stay as
many. Beside the FIT runs a plain transformer of the same width and as many blocks whose tokens all
attend to one another. Timed is a forward and a backward pass; memory is the most that is alive in
it besides the weights, counted by storage on tensors that have none (`train.meter`). Attention is
fused in both, so that not even the plain one keeps a table of tokens by tokens.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from infra.bench.timing import Times, commit, interleaved, machine, say
from train.describe import conditioning
from train.meter import Meter, pretended
from train.model.fit import FitConfig
from train.model.layers import Attention, FeedForward
from train.model.networks import build

SCALES = (1, 2, 4)
"""By how much a clip's sides grow; tokens grow by the square."""
_SMALL = FitConfig(
    frames=8, height=32, width=64, group=(8, 4, 8),
    patch_width=64, latent_width=128, context_width=64, latents=64,
    blocks=2, layers=1, patch_head=32, latent_head=32, text_width=16,
)  # fmt: skip
_QUICK = replace(_SMALL, frames=2, height=8, inside_height=8, width=16, group=(2, 1, 2), latents=8)


def grown(base: FitConfig, scale: int) -> FitConfig:
    """Return the shape for clips with longer sides: as many groups and latents, larger groups."""
    t, h, w = base.group
    height = base.height * scale
    return replace(
        base,
        height=height,
        inside_height=height,
        width=base.width * scale,
        group=(t, h * scale, w * scale),
    )


def num_tokens(config: FitConfig) -> int:
    """Return the patches of a clip."""
    t, h, w = config.grid
    return t * h * w


class Plain(nn.Module):
    """A transformer whose tokens all attend to one another."""

    def __init__(self, config: FitConfig) -> None:
        super().__init__()
        width, head = config.patch_width, config.patch_head
        self.stem = nn.Linear(3 * config.patch_values, width)
        self.attention = nn.ModuleList(Attention(width, width, head) for _ in range(config.blocks))
        self.feed_forward = nn.ModuleList(FeedForward(width) for _ in range(config.blocks))
        self.out = nn.Linear(width, 3 * config.patch_values)

    def forward(self, patches: Tensor) -> Tensor:
        """Return new values for patches [batch, tokens, values]."""
        tokens = self.stem(patches)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            tokens = tokens + attention(tokens)
            tokens = tokens + feed_forward(tokens)
        out: Tensor = self.out(tokens)
        return out


@dataclass(frozen=True)
class Row:
    """What one network takes at one number of tokens."""

    tokens: int
    times: Times
    flops: int
    peak_bytes: int


def passes(config: FitConfig, name: str) -> tuple[nn.Module, Callable[[], None]]:
    """Return a network, "FIT" or "plain", and a forward and backward pass through it."""
    torch.manual_seed(0)
    network: Any = build(config) if name == "FIT" else Plain(config)

    def step() -> None:
        if name == "FIT":
            clip = torch.randn(1, *config.clip_shape)
            f, _ = network(clip, torch.zeros(1), conditioning(config, 1, 8))
        else:
            f = network(torch.randn(1, num_tokens(config), 3 * config.patch_values))
        torch.autograd.backward(f.square().mean())
        network.zero_grad(set_to_none=True)

    return network, step


def measure(base: FitConfig, rounds: int) -> dict[str, list[Row]]:
    """Return the rows of both networks, by name."""
    shapes = [grown(base, scale) for scale in SCALES]
    names = [(name, shape) for shape in shapes for name in ("FIT", "plain")]
    cases = {f"{name} {num_tokens(s)} tokens": passes(s, name)[1] for name, s in names}
    times = interleaved(cases, rounds, torch.device("cpu"))
    rows: dict[str, list[Row]] = {"FIT": [], "plain": []}
    for (name, shape), seconds in zip(names, times.values(), strict=True):
        with pretended():
            network, step = passes(shape, name)
            with Meter(network.parameters()) as meter:
                step()
        rows[name].append(Row(num_tokens(shape), seconds, meter.flops, meter.peak_bytes))
    return rows


def show(rows: dict[str, list[Row]]) -> None:
    """Print the table and, last, how the growths compare."""
    say(f"{'':<8}{'tokens':>8}{'GFLOP':>10}  {'median (least to most)':<32}{'memory':>12}   growth")
    for name, found in rows.items():
        first = found[0]
        for row in found:
            say(
                f"{name:<8}{row.tokens:>8}{row.flops / 1e9:>10.2f}  {row.times!s:<32}"
                f"{row.peak_bytes / 2**20:>8.1f} MiB   tokens x{row.tokens // first.tokens}: "
                f"FLOPs x{row.flops / first.flops:.1f}, time "
                f"x{row.times.median / first.times.median:.1f}, memory "
                f"x{row.peak_bytes / first.peak_bytes:.1f}"
            )
    growth = {name: r[-1].times.median / r[0].times.median for name, r in rows.items()}
    times = rows["FIT"][-1].tokens // rows["FIT"][0].tokens
    say(
        f"{times}x the tokens: FIT takes {growth['FIT']:.1f}x the time, self-attention over all "
        f"tokens {growth['plain']:.1f}x; ratio {growth['plain'] / growth['FIT']:.1f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.bench.token_growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny clips: does it run at all?")
    words = parser.parse_args(arguments)
    base = _QUICK if words.quick else _SMALL
    say(
        f"{base.blocks} blocks, width {base.patch_width}, FIT with {base.latents} latents, batch 1,"
        f" fp32\n{machine(torch.device('cpu'))}, commit {commit()}"
    )
    show(measure(base, words.rounds))


if __name__ == "__main__":
    main()
