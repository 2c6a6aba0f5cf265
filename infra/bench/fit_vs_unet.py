"""FIT-500M against U-Net-284M: one training step and one guided denoiser evaluation.

    python -m infra.bench.fit_vs_unet [--precision fp32 bf16] [--rounds 3] [--device cpu|cuda]

What Snap Video (arXiv 2402.14797, Sec. 4.2) says of the two is that FIT trains 3.31 times and
samples 4.49 times as fast. A training step is the pass for self-conditioning (FIT only), a forward
and a backward pass, and fused AdamW for both; an evaluation asks with and without the text. Both
networks get the same threads, precision, optimizer and, with --compile, torch.compile.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infra.bench.timing import Case, Times, commit, interleaved, machine, matmul, say
from train.describe import conditioning, in_precision
from train.diffusion.edm import Draws, Edm, Network, training_loss
from train.diffusion.guidance import Guidance, GuidedDenoiser
from train.meter import Meter, pretended
from train.model.fit import Conditioning, FitConfig
from train.model.networks import ModelConfig, build
from train.model.presets import PRESETS

PAPER = {"training step": 3.31, "sampling step": 4.49}
PAIRS = {False: ("fit-500m", "unet-284m"), True: ("micro", "unet-micro")}
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATMUL_SIDE = {"cpu": 4096, "cuda": 8192}


@dataclass
class Subject:
    """A network with all it needs for both kinds of step."""

    preset: str
    config: ModelConfig
    network: nn.Module
    kind: torch.dtype
    device: torch.device
    batch: int
    text_tokens: int

    def __post_init__(self) -> None:
        self.edm = Edm()
        self.forward: Any = self.network
        self.optimizer: torch.optim.Optimizer | None = None

    def compile(self) -> None:
        """Run the network through torch.compile from now on."""
        self.forward = torch.compile(self.network, fullgraph=True)

    def training_step(self) -> None:
        """Make one step, optimizer included."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.network.train()
        torch.autograd.backward(self.loss())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self) -> Tensor:
        """Return the loss of a batch."""
        clips = torch.rand(self.batch, *self.config.clip_shape, device=self.device) * 2 - 1
        ones = torch.ones(self.batch, device=self.device)
        draws = Draws(
            sigma=0.5 * ones,
            noise=torch.randn_like(clips),
            drop=ones < 0,
            carry=ones > 0 if self.config.carries else None,
        )
        return training_loss(self._network(), clips, self._cond(), self.edm, draws).mean()

    def sampling_step(self) -> None:
        """Make one guided evaluation with the latents of an earlier one."""
        self.network.eval()
        denoise = GuidedDenoiser(self._network(), self.edm, self._cond(), Guidance())
        x = torch.randn(self.batch, *self.config.clip_shape, device=self.device).double()
        sigma = torch.full((), 0.5, dtype=torch.float64, device=self.device)
        denoise(x, sigma, (0, 2), self._latents())

    def _latents(self) -> Tensor | None:
        if not isinstance(self.config, FitConfig):
            return None
        shape = self.batch, 2, self.config.latents, self.config.latent_width
        return torch.randn(*shape, device=self.device)

    def _cond(self) -> Conditioning:
        return conditioning(self.config, self.batch, self.text_tokens).to(self.device)

    def _network(self) -> Network:
        """Return the network in the precision under test."""
        return in_precision(self.forward, self.kind, self.device.type)


@dataclass(frozen=True)
class Cost:
    """What one step takes at least: FLOPs, and bytes alive besides the weights."""

    flops: int
    peak_bytes: int


def costs(preset: str, kind: torch.dtype, batch: int, text_tokens: int) -> dict[str, Cost]:
    """Return what both kinds of step cost, measured on tensors without memory."""
    found = {}
    with pretended():
        config = PRESETS[preset]
        subject = Subject(
            preset, config, build(config), kind, torch.device("cpu"), batch, text_tokens
        )
        with Meter(subject.network.parameters()) as training:
            subject.network.train()
            torch.autograd.backward(subject.loss())
        found["training step"] = Cost(training.flops, training.peak_bytes)
        subject.network.zero_grad(set_to_none=True)
        with Meter(subject.network.parameters()) as sampling:
            subject.sampling_step()
        found["sampling step"] = Cost(sampling.flops, sampling.peak_bytes)
    return found


def compare(words: argparse.Namespace, precision: str) -> None:
    """Time both networks in one precision and print the table."""
    device, kind = torch.device(words.device), KINDS[precision]
    subjects = []
    for preset in PAIRS[words.quick]:
        torch.manual_seed(0)
        config = PRESETS[preset]
        network = build(config).to(device)
        subject = Subject(preset, config, network, kind, device, words.batch, words.text_tokens)
        if words.compile:
            subject.compile()
        subjects.append(subject)
    side = 256 if words.quick else MATMUL_SIDE[device.type]
    product, product_flops = matmul(device, kind, side)
    cases: dict[str, Case] = {"matrix product": product}
    for step in PAPER:
        for subject in subjects:
            call = subject.training_step if step == "training step" else subject.sampling_step
            cases[f"{subject.preset} {step}"] = call
    say(f"\n{_headline(words, subjects, precision, device)}")
    times = interleaved(cases, words.rounds, device, warm_ups=words.warm_ups)
    peak = product_flops / times["matrix product"].median
    say(f"matrix product, {side}x{side}, {precision}: {peak / 1e9:.0f} GFLOP/s at the median")
    needed = [costs(it.preset, kind, words.batch, words.text_tokens) for it in subjects]
    _table(subjects, needed, times, peak)
    for step, paper in PAPER.items():
        fit, unet = (times[f"{subject.preset} {step}"].median for subject in subjects)
        fewer = needed[1][step].flops / needed[0][step].flops
        say(
            f"{precision} {step}: FIT is {unet / fit:.2f}x as fast "
            f"(by FLOPs alone {fewer:.2f}x, the paper {paper}x)"
        )


def _headline(
    words: argparse.Namespace, subjects: Sequence[Subject], precision: str, device: torch.device
) -> str:
    first, second = subjects
    _, frames, height, width = first.config.clip_shape
    return (
        f"{first.preset} against {second.preset}: clips {frames}x{height}x{width}, batch "
        f"{words.batch}, {words.text_tokens} text tokens, {precision}, compile "
        f"{'on' if words.compile else 'off'}\n{machine(device)}, commit {commit()}"
    )


def _table(
    subjects: Sequence[Subject],
    needed: Sequence[dict[str, Cost]],
    times: dict[str, Times],
    peak: float,
) -> None:
    say(f"{'':<26}{'TFLOP':>9}  {'median (least to most)':<34}{'of the product':>15}{'memory':>12}")
    for subject, found in zip(subjects, needed, strict=True):
        for step, cost in found.items():
            name = f"{subject.preset} {step}"
            share = cost.flops / times[name].median / peak
            say(
                f"{name:<26}{cost.flops / 1e12:>9.4f}  {times[name]!s:<34}{share:>15.1%}"
                f"{cost.peak_bytes / 2**30:>8.2f} GiB"
            )
    say("memory: the most that is alive besides weights and optimizer, counted by storage")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and compare in every precision asked for."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.fit_vs_unet", description=__doc__)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--precision", nargs="+", choices=KINDS, default=["bf16", "fp32"])
    parser.add_argument("--device", choices=MATMUL_SIDE, default=best)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default 3)")
    parser.add_argument(
        "--warm-ups",
        type=int,
        help="rounds before them (default 1 on a GPU and with --compile, else 0: on a CPU the "
        "median of three is not moved by a slow first one)",
    )
    parser.add_argument("--batch", type=int, default=1, help="clips per step (default 1)")
    parser.add_argument("--text-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's")
    parser.add_argument("--compile", action="store_true", help="use torch.compile for both")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it run at all?")
    words = parser.parse_args(arguments)
    if words.threads:
        torch.set_num_threads(words.threads)
    if words.warm_ups is None:
        words.warm_ups = int(words.compile or words.device == "cuda")
    for precision in words.precision:
        compare(words, precision)


if __name__ == "__main__":
    main()
