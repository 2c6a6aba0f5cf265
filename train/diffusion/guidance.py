"""Guidance: the denoiser that the sampler calls, pulled towards the text.

The network answers with and without the text (or with a negative one) in one forward pass; the
difference is enlarged by `Guidance.scale`, and clips that leave [-1, 1] are squeezed back by
dynamic thresholding (arXiv 2205.11487, Sec. 2.3). Each of the two answers carries its own latents
to the next evaluation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from train.diffusion.edm import Edm, Network
from train.model.fit import Conditioning


@dataclass(frozen=True)
class Guidance:
    """How strongly the text pulls; `scale` counts 1 as off (the other convention's w + 1).

    Attributes:
        scale: Enlargement of the text's influence, 1 or more.
        low_scale: Scale of every other step once `high_share` of the steps is over; None keeps
            `scale` throughout.
        high_share: Share of steps that begin with `scale` before it alternates with `low_scale`.
        percentile: Share of values that thresholding leaves untouched; 1 keeps all but the range.
        threshold: Whether clips are squeezed back into [-1, 1].
    """

    scale: float = 4.0
    low_scale: float | None = None
    high_share: float = 0.1
    percentile: float = 0.995
    threshold: bool = True

    @property
    def guided(self) -> bool:
        """Whether the text's influence is enlarged at any step."""
        return self.scale != 1 or self.low_scale not in (None, 1)

    def at(self, step: int, num_steps: int) -> float:
        """Return the scale of one step."""
        if self.low_scale is None or step < self.high_share * num_steps:
            return self.scale
        swing = step - int(self.high_share * num_steps)
        return self.scale if swing % 2 else self.low_scale


def squeezed(clean: Tensor, percentile: float = 0.995) -> Tensor:
    """Return clips within [-1, 1]: values clipped at q and divided by it.

    q is each clip's `percentile` of |value|, at least 1 (dynamic thresholding).
    """
    q = torch.quantile(clean.abs().flatten(1), percentile, dim=1).clamp(min=1)
    q = q.reshape(-1, *[1] * (clean.ndim - 1))
    return clean.clamp(-q, q) / q


class GuidedDenoiser:
    """The clean clip as the network sees it under guidance; fits `sampler.Denoiser`.

    Latents are kept as one tensor [batch, 2 branches, tokens, width] (1 branch where the scale
    never leaves 1), so that a walk's state is plain tensors. The first step asks both branches;
    a later one of scale 1 asks only the text's, and the other branch keeps the latents it has.
    """

    def __init__(
        self,
        network: Network,
        edm: Edm,
        cond: Conditioning,
        guidance: Guidance,
        negative: Conditioning | None = None,
    ) -> None:
        """Bind a network in evaluation mode to the conditioning of one batch.

        Args:
            network: Called as F in float32.
            edm: The diffusion.
            cond: The prompts.
            guidance: How strongly they pull.
            negative: What to be pulled away from; the prompts without their text where None.
        """
        self.network, self.edm, self.guidance = network, edm, guidance
        self.both = Conditioning.cat(cond, negative or cond.without_text())
        self.cond = cond

    @torch.no_grad()
    def __call__(
        self, x: Tensor, sigma: Tensor, progress: tuple[int, int], latents: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (D [batch, 3, t, h, w] in float64, latents [batch, branches, tokens, width]).

        The latents are None where the network hands nothing over.
        """
        scale = self.guidance.at(*progress)
        both = self.guidance.guided and (scale != 1 or progress[0] == 0)
        f, carried = self._ask(x, sigma, latents, both=both)
        if both:
            with_text, without = f.chunk(2)
            f = without + scale * (with_text - without)
        clean = self.edm.denoised(x, f, sigma)
        if self.guidance.threshold:
            clean = squeezed(clean, self.guidance.percentile)
        return clean, carried

    def _ask(
        self, x: Tensor, sigma: Tensor, latents: Tensor | None, *, both: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return (F of the branches one after another in float64, latents of all branches)."""
        branches = 2 if both else 1
        scaled = (self.edm.c_in(sigma) * x).float().repeat(branches, 1, 1, 1, 1)
        c_noise = self.edm.c_noise(sigma).float().expand(scaled.shape[0])
        asked = None if latents is None else latents[:, :branches].transpose(0, 1).flatten(0, 1)
        f, carried = self.network(scaled, c_noise, self.both if both else self.cond, asked)
        if carried is not None:
            carried = torch.unflatten(carried, 0, (branches, -1)).transpose(0, 1)
            if latents is not None:
                carried = torch.cat([carried, latents[:, branches:]], dim=1)
        return f.double(), carried
