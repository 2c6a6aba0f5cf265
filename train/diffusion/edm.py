"""The diffusion: how a clip is noised, what the network predicts, and the loss.

One process for stills and videos. A clip is divided by `sigma_in` before noise is added, since
neighbouring frames and pixels repeat each other and averaging them would remove noise (Snap Video,
arXiv 2402.14797, Sec. 3.2; the base is EDM, arXiv 2206.00364). With s = sigma, a = sigma_in,
d = sigma_data:

    x_s = x/a + s*eps        D = c_skip*x_s + c_out*F(c_in*x_s)        F_tgt = d^2*eps - s*x

c_out is negative throughout: with a = 1 everything equals EDM except for the sign of F.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional

from train.model.checks import above_zero
from train.model.fit import Conditioning


@dataclass(frozen=True)
class Edm:
    """Constants of one diffusion; functions take sigma [...] and return its shape.

    The functions raise ValueError where a sigma is 0, negative or not a number.

    Attributes:
        sigma_in: Divides a clean clip before noise is added; see `input_scale`.
        sigma_data: Assumed standard deviation of the pixels in [-1, 1].
        p_mean: Mean of ln(sigma) in training.
        p_std: Standard deviation of ln(sigma) in training.
        sigma_min: Last noise level of sampling before 0.
        sigma_max: First noise level of sampling.
        rho: Curvature of the sampling schedule.
    """

    sigma_in: float = 4.0
    sigma_data: float = 1.0
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        for name in ("sigma_in", "sigma_data", "p_std", "sigma_min", "sigma_max", "rho"):
            _positive(name, getattr(self, name))
        if not math.isfinite(self.p_mean):
            raise ValueError(f"p_mean must be a finite number, got {self.p_mean}")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min ({self.sigma_min:g}) must be below sigma_max ({self.sigma_max:g}): "
                "sampling walks from the greater to the smaller"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the constants that `to_dict` described."""
        return cls(**values)

    def c_in(self, sigma: Tensor) -> Tensor:
        """Scale that brings x_s to unit variance."""
        _check_sigma(sigma)
        return 1 / (self.sigma_data**2 / self.sigma_in**2 + sigma**2).sqrt()

    def c_skip(self, sigma: Tensor) -> Tensor:
        """Share of x_s in the denoised clip."""
        _check_sigma(sigma)
        a, d2 = self.sigma_in, self.sigma_data**2
        return a * d2 / (a * sigma**2 + d2)

    def c_out(self, sigma: Tensor) -> Tensor:
        """Scale of F in the denoised clip; never positive."""
        _check_sigma(sigma)
        a, d2 = self.sigma_in, self.sigma_data**2
        return -a * sigma * self.sigma_data * (sigma**2 + d2).sqrt() / (a * sigma**2 + d2)

    def c_nrm(self, sigma: Tensor) -> Tensor:
        """Scale that brings the target to unit variance."""
        _check_sigma(sigma)
        return 1 / (self.sigma_data * (sigma**2 + self.sigma_data**2).sqrt())

    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told of sigma."""
        _check_sigma(sigma)
        return sigma.log() / 4

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight w of (F - c_nrm*F_tgt)^2."""
        _check_sigma(sigma)
        d2 = self.sigma_data**2
        return ((sigma**2 + d2) / (sigma**2 + d2 / self.sigma_in)) ** 2

    def clean_weight(self, sigma: Tensor) -> Tensor:
        """Loss weight lambda of (D - x)^2: the same loss as `weight` gives, to fewer digits."""
        _check_sigma(sigma)
        return 1 / self.sigma_data**2 + 1 / sigma**2

    def noised(self, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return x_s for clips `x` at noise levels `sigma` [batch]."""
        return x / self.sigma_in + _spread(sigma, x) * noise

    def target(self, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return c_nrm*F_tgt, which F should equal."""
        s = _spread(sigma, x)
        return self.c_nrm(s) * (self.sigma_data**2 * noise - s * x)

    def denoised(self, x_s: Tensor, f: Tensor, sigma: Tensor) -> Tensor:
        """Return D, the clean clip that `f` stands for."""
        s = _spread(sigma, x_s)
        return self.c_skip(s) * x_s + self.c_out(s) * f

    def loss(self, f: Tensor, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return the weighted squared error of each clip, averaged over its values [batch]."""
        error = (f.float() - self.target(x, noise, sigma)) ** 2
        return self.weight(sigma) * error.flatten(1).mean(1)


def input_scale(frames: int, width_px: int, reference_px: int) -> float:
    """Return sigma_in for a stage: (width / reference) * sqrt(frames).

    The reference is the width that p_mean and p_std were tuned for: 64 px in the paper, the first
    stage's width in a small cascade.

    Raises:
        ValueError: A length is not above 0.
    """
    for name, value in (("frames", frames), ("width", width_px), ("reference width", reference_px)):
        _positive(name, value)
    return width_px / reference_px * math.sqrt(frames)


@dataclass(frozen=True)
class LowResNoise:
    """How much noise the lower stage's clip gets in training: ln(sigma_aug) uniform."""

    low: float = 0.02
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"the noise of the lower stage's clip must have 0 < low <= high, got low "
                f"{self.low:g} and high {self.high:g}"
            )


@dataclass(frozen=True)
class Draws:
    """Everything random about one training batch, drawn sample by sample.

    Attributes:
        sigma: Noise level [batch].
        noise: Unit noise in the shape of the clips.
        drop: True where the text is hidden [batch].
        carry: True where the latents of a first pass are handed over [batch], or None where
            they never are.
        sigma_aug: Noise level of the lower stage's clip [batch], or None.
        noise_aug: Unit noise in the shape of the lower stage's clip, or None.
        still: True where the clip is one image, not a video of infinite framerate [batch]: its
            frames share their noise. None where there is no such clip.
    """

    sigma: Tensor
    noise: Tensor
    drop: Tensor
    carry: Tensor | None = None
    sigma_aug: Tensor | None = None
    noise_aug: Tensor | None = None
    still: Tensor | None = None

    def to(self, target: torch.device | str) -> "Draws":
        """Return a copy on another device."""
        return Draws(**{k: v.to(target) for k, v in vars(self).items() if v is not None})


def draw(
    seeds: Sequence[int],
    shape: Sequence[int],
    edm: Edm,
    *,
    label_dropout: float = 0.1,
    self_conditioning: float = 0.9,
    low_shape: Sequence[int] | None = None,
    low_noise: LowResNoise | None = None,
    still: Sequence[bool] | None = None,
) -> Draws:
    """Return the randomness of a batch; a sample's depends on its own seed and nothing else.

    An image is a video of infinite framerate, with noise of its own in every frame (Sec. 3.2).
    `still` marks the clips that are not to be treated so, which is the paper's ablation: their
    first frame's noise is that of every frame.

    Args:
        seeds: One seed per sample.
        shape: Channel, time, height, width of a clip.
        edm: Gives the distribution of sigma.
        label_dropout: Probability that the text is hidden.
        self_conditioning: Probability that first-pass latents are handed over.
        low_shape: Shape of the lower stage's clip, for an upsampler.
        low_noise: Its noise range; the default where None.
        still: Whether each sample is one image, not a video; None where no sample is.
    """
    span = low_noise or LowResNoise()
    columns: dict[str, list[Tensor]] = {name: [] for name in Draws.__dataclass_fields__}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn((), generator=generator)
        uniform = torch.rand(3, generator=generator)
        columns["sigma"].append((normal * edm.p_std + edm.p_mean).exp())
        columns["drop"].append(uniform[0] < label_dropout)
        if self_conditioning > 0:
            columns["carry"].append(uniform[1] < self_conditioning)
        columns["noise"].append(torch.randn(*shape, generator=generator))
        if low_shape is not None:
            low, high = math.log(span.low), math.log(span.high)
            columns["sigma_aug"].append((low + (high - low) * uniform[2]).exp())
            columns["noise_aug"].append(torch.randn(*low_shape, generator=generator))
    draws = Draws(**{name: torch.stack(values) for name, values in columns.items() if values})
    return draws if still is None else _frozen(draws, torch.tensor(still))


def _frozen(draws: Draws, still: Tensor) -> Draws:
    """Return `draws` with the first frame's noise in all frames of the samples at `still`."""
    if still.shape != draws.sigma.shape:
        raise ValueError(f"still has {len(still)} values for {len(draws.sigma)} samples")
    names = ("noise", "noise_aug")
    noises = {name: value for name in names if (value := getattr(draws, name)) is not None}
    frozen = {n: torch.where(_spread(still, v), v[:, :, :1], v) for n, v in noises.items()}
    return replace(draws, still=still, **frozen)


def low_res_condition(
    low: Tensor, noise: Tensor, sigma_aug: Tensor, size: tuple[int, int], sigma_data: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return (the lower stage's clip noised and enlarged to `size`, its ln(sigma_aug)/4).

    Noise is added before enlarging: at the larger size it would average out.

    Args:
        low: Clips of the lower stage [batch, 3, t, h, w].
        noise: Unit noise of the same shape.
        sigma_aug: Noise level [batch].
        size: Height and width of this stage.
        sigma_data: Assumed standard deviation of the pixels.

    Raises:
        ValueError: A noise level is not above 0.
    """
    above_zero(sigma_aug, "sigma_aug", "0.02 is hardly any noise")
    s = _spread(sigma_aug, low)
    noised = (low + s * noise) / (sigma_data**2 + s**2).sqrt()
    frames = noised.transpose(1, 2).flatten(0, 1)
    large = functional.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return torch.unflatten(large, 0, (low.shape[0], -1)).transpose(1, 2), sigma_aug.log() / 4


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return clips [b, 3, t, h, w] averaged by area down to `size`."""
    frames = x.transpose(1, 2).flatten(0, 1)
    small = functional.interpolate(frames, size=size, mode="area")
    return torch.unflatten(small, 0, (x.shape[0], -1)).transpose(1, 2)


class Network(Protocol):
    """A network of `train.model`, or an engine that wraps one."""

    def __call__(
        self,
        x: Tensor,
        c_noise: Tensor,
        cond: Conditioning,
        prev_latents: Tensor | None = None,
        prev_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (F, final latents); None where the network hands nothing over."""
        ...


def training_loss(
    network: Network, x: Tensor, cond: Conditioning, edm: Edm, draws: Draws
) -> Tensor:
    """Return the loss of each clip [batch]; a step minimises its mean.

    The latents of a first pass without gradients are handed to the second one where
    `draws.carry` says so. It is made even where none of a rank's clips wants it: under ZeRO-3 a
    pass gathers weights from all ranks, and one that skipped it would leave the others waiting.
    A network that hands nothing over needs no first pass: draw with `self_conditioning=0`.
    For an upsampler (`draws.sigma_aug` given) the lower stage's clip is made from `x` itself.
    Where `draws.still` is True the answers for all frames are averaged into one for the image.

    Args:
        network: Called as F; its mode decides about dropout.
        x: Clean clips in [-1, 1], [batch, 3, t, h, w].
        cond: What is known about the clips; its `drop` and `low_res` are set here.
        edm: The diffusion.
        draws: The batch's randomness on the device of `x`.
    """
    cond = cond.with_drop(draws.drop)
    if draws.sigma_aug is not None and draws.noise_aug is not None:
        height, width = draws.noise_aug.shape[-2:]
        low = shrink(x, (height, width))
        size = (x.shape[-2], x.shape[-1])
        cond = cond.with_low_res(
            *low_res_condition(low, draws.noise_aug, draws.sigma_aug, size, edm.sigma_data)
        )
    x_in = edm.noised(x, draws.noise, draws.sigma) * _spread(edm.c_in(draws.sigma), x)
    c_noise = edm.c_noise(draws.sigma)
    latents = None
    if draws.carry is not None:
        with torch.no_grad():
            _, latents = network(x_in, c_noise, cond)
    f, _ = network(x_in, c_noise, cond, latents, draws.carry)
    if draws.still is not None:
        f = torch.where(_spread(draws.still, f), f.float().mean(2, keepdim=True), f.float())
    return edm.loss(f, x, draws.noise, draws.sigma)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values if values.ndim == 0 else values.reshape(-1, *[1] * (like.ndim - 1))


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value}")


def _check_sigma(sigma: Tensor) -> None:
    above_zero(sigma, "sigma", "the last noise level of a walk, 0, is never evaluated")
