"""From prompts to frames: both stages of the cascade, step by step, without Ray.

A `Denoising` is a group of requests of one shape that share every forward pass. Its whole state
between two steps is plain tensors, so any of its requests can be saved, and taken up again by
another process with the identical result.

Each request's noise comes from its own seed and texts are padded to one length, so a video does
not depend on what it is denoised with. What a matrix product's rounding may depend on is the
number of rows and, with very few, the place among them (measured on CPU: other mates 0, other
rows at most 1e-6 in pixels of [-1, 1], so at most one grey level). Hence group sizes are rounded
up to powers of two, and a saved request goes on in the row it had.

    generator = Generator(stage1, stage2, encoder)
    denoising = generator.begin([request])
    while not denoising.done:
        denoising.advance()
    [frames] = denoising.videos()        # uint8 [T, H, W, 3]
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from serve.schema import VideoRequest
from train.diffusion import sampler
from train.diffusion.edm import Edm, low_res_condition
from train.diffusion.guidance import Guidance, GuidedDenoiser
from train.diffusion.sampler import SamplerState
from train.model.fit import Conditioning, Fit, framerate_token, resolution_token
from train.text import TextEncoder

Frames = npt.NDArray[np.uint8]
Purpose = Literal["stage1", "stage2", "low_res"]
Item = TypeVar("Item")
_CACHED_TEXTS = 4096


@dataclass(frozen=True)
class Stage:
    """One network of the cascade with the diffusion it was trained under."""

    network: Fit
    edm: Edm


@dataclass(frozen=True)
class Saved:
    """One request's state between two steps; tensors lack the batch axis.

    Attributes:
        stage: The stage it is in, 1 or 2.
        row: Its place in the group.
        rows: Rows of the group.
        state: Where the stage's walk stands.
        low: The first stage's clip, once that is finished.
    """

    stage: int
    row: int
    rows: int
    state: SamplerState
    low: Tensor | None

    def pack(self) -> bytes:
        """Return the state as a safetensors file."""
        position = torch.tensor([self.stage, self.state.step, self.row, self.rows])
        tensors = {"x": self.state.x, "position": position}
        if self.state.latents is not None:
            tensors["latents"] = self.state.latents
        if self.low is not None:
            tensors["low"] = self.low
        packed: bytes = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> "Saved":
        """Return the state that `pack` wrote.

        Raises:
            KeyError, ValueError, safetensors.SafetensorError: It is none.
        """
        tensors = safetensors.torch.load(data)
        stage, step, row, rows = tensors["position"].tolist()
        state = SamplerState(tensors["x"], step, tensors.get("latents"))
        return cls(stage, row, rows, state, tensors.get("low"))


class Generator:
    """The weights of one model, ready to sample on one device."""

    def __init__(
        self,
        stage1: Stage,
        stage2: Stage | None,
        encoder: TextEncoder,
        *,
        source_size: tuple[int, int] | None = None,
        device: str = "cpu",
    ) -> None:
        """Take the networks.

        Args:
            stage1: The network that starts from noise.
            stage2: The upsampler, or None.
            encoder: Reads prompts.
            source_size: Height and width in pixels that the network is told its clip was
                recorded at; None tells it nothing.
            device: Where to sample.
        """
        self.device = torch.device(device)
        self.stages = [stage for stage in (stage1, stage2) if stage is not None]
        for stage in self.stages:
            stage.network.eval().requires_grad_(requires_grad=False).to(self.device)
        self._encoder = encoder
        self._source_size = source_size
        self._embed = functools.lru_cache(_CACHED_TEXTS)(self._embed_one)

    def begin(self, requests: Sequence[VideoRequest]) -> "Denoising":
        """Return requests of one `batch_key` before their first step."""
        return Denoising(self, requests, rows=_bucket(len(requests)))

    def resume(self, requests: Sequence[VideoRequest], saved: Sequence[Saved]) -> "Denoising":
        """Return requests of one group, or some of them, as they were saved at one step."""
        return Denoising(self, requests, rows=saved[0].rows, saved=saved)

    def conditioning(self, requests: Sequence[VideoRequest]) -> tuple[Conditioning, Conditioning]:
        """Return what the network is told with the prompts, and with the negative prompts."""
        text, mask = self._texts([request.prompt for request in requests])
        none = torch.zeros(len(requests), dtype=torch.bool)
        height, width = self._source_size or (64, 64)
        size = torch.tensor([height, width], dtype=torch.float32).expand(len(requests), 2)
        cond = Conditioning(
            text=text,
            text_mask=mask,
            drop=none,
            framerate=framerate_token(torch.tensor([request.fps for request in requests])),
            resolution=resolution_token(size[:, 0], size[:, 1]),
            resolution_known=none if self._source_size is None else ~none,
        ).to(self.device)
        negative_text, negative_mask = self._texts([r.negative_prompt for r in requests])
        empty = torch.tensor([not request.negative_prompt for request in requests])
        negative = Conditioning(
            **vars(cond)
            | {
                "text": negative_text.to(self.device),
                "text_mask": negative_mask.to(self.device),
                "drop": empty.to(self.device),
            }
        )
        return cond, negative

    def _texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return embeddings padded to the encoder's longest text, and their mask."""
        length = self._encoder.settings.max_tokens
        found = [self._embed(text) for text in texts]
        padded = [functional.pad(each, (0, 0, 0, length - len(each))) for each in found]
        mask = torch.arange(length) < torch.tensor([[len(each)] for each in found])
        return torch.stack(padded), mask

    def _embed_one(self, text: str) -> Tensor:
        return self._encoder.encode([text])[0].float()


class Denoising:
    """A group of requests on its way from noise to frames."""

    def __init__(
        self,
        generator: Generator,
        requests: Sequence[VideoRequest],
        *,
        rows: int,
        saved: Sequence[Saved] | None = None,
    ) -> None:
        """Set the group up; use `Generator.begin` or `Generator.resume`."""
        self._generator, self.rows = generator, rows
        self._places = [each.row for each in saved] if saved else list(range(len(requests)))
        self._requests = _placed(requests, self._places, rows)
        self._num_steps = [requests[0].steps, requests[0].steps_2][: len(generator.stages)]
        self._low: Tensor | None = None
        self.stage = 1
        if saved:
            self._restore(_placed(saved, self._places, rows))
        else:
            self._state = self._noise("stage1")
        self._denoiser = self._make_denoiser()

    @property
    def step(self) -> int:
        """Steps done in the running stage."""
        return self._state.step

    @property
    def steps_done(self) -> int:
        """Steps done in all stages."""
        return sum(self._num_steps[: self.stage - 1]) + self.step

    @property
    def progress(self) -> int:
        """Steps done, in percent of all; 99 until the video is encoded."""
        return min(99, 100 * self.steps_done // sum(self._num_steps))

    @property
    def done(self) -> bool:
        """Whether the last stage has made its last step."""
        return self.stage == len(self._num_steps) and self.step == self._num_steps[-1]

    def advance(self) -> None:
        """Make one step; at the end of a stage, also enter the next one."""
        edm = self._generator.stages[self.stage - 1].edm
        num_steps = self._num_steps[self.stage - 1]
        self._state = sampler.walk(
            self._denoiser, self._state, edm, num_steps, on_step=lambda *_: True
        )
        if self.step == num_steps and self.stage < len(self._num_steps):
            self._low = sampler.finish(self._state, edm).clamp(-1, 1).float()
            self.stage += 1
            self._state = self._noise("stage2")
            self._denoiser = self._make_denoiser()

    def save(self, index: int) -> Saved:
        """Return the state of one request."""
        row, latents = self._places[index], self._state.latents
        state = SamplerState(
            self._state.x[row].cpu(),
            self._state.step,
            None if latents is None else latents[row].cpu(),
        )
        low = None if self._low is None else self._low[row].cpu()
        return Saved(self.stage, row, self.rows, state, low)

    def videos(self) -> list[Frames]:
        """Return each request's frames, uint8 [T, H, W, 3]."""
        assert self.done, "videos are read after the last step"
        clips = sampler.finish(self._state, self._generator.stages[-1].edm).clamp(-1, 1)
        pixels = ((clips + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu()
        return [pixels[row].numpy() for row in self._places]

    def _noise(self, purpose: Purpose) -> SamplerState:
        stage = self._generator.stages[self.stage - 1]
        shape = stage.network.config.clip_shape
        state = sampler.begin(self._seeds(purpose), shape, stage.edm)
        return SamplerState(state.x.to(self._generator.device))

    def _seeds(self, purpose: Purpose) -> list[int]:
        return [_seed(request.seed, purpose) for request in self._requests]

    def _restore(self, saved: Sequence[Saved]) -> None:
        device = self._generator.device
        self.stage = saved[0].stage
        self._state = SamplerState(
            torch.stack([each.state.x for each in saved]).to(device),
            saved[0].state.step,
            _stacked([each.state.latents for each in saved], device),
        )
        self._low = _stacked([each.low for each in saved], device)

    def _make_denoiser(self) -> GuidedDenoiser:
        stage = self._generator.stages[self.stage - 1]
        cond, negative = self._generator.conditioning(self._requests)
        if self._low is not None:
            noise = sampler.unit_noise(self._seeds("low_res"), self._low.shape[1:])
            sigma = torch.tensor([request.sigma_aug for request in self._requests])
            config = stage.network.config
            low, c_aug = low_res_condition(
                self._low,
                noise.float().to(self._low.device),
                sigma.to(self._low.device),
                (config.height, config.width),
                stage.edm.sigma_data,
            )
            cond, negative = cond.with_low_res(low, c_aug), negative.with_low_res(low, c_aug)
        first = self._requests[0]
        scale = first.guidance if self.stage == 1 else first.guidance_2
        return GuidedDenoiser(stage.network, stage.edm, cond, Guidance(scale), negative)


def _bucket(count: int) -> int:
    """Return the next power of two."""
    return 1 << (count - 1).bit_length()


def _placed(items: Sequence[Item], places: Sequence[int], rows: int) -> list[Item]:
    """Return `rows` items: each at its place, copies of the last one in between."""
    by_place = dict(zip(places, items, strict=True))
    return [by_place.get(row, items[-1]) for row in range(rows)]


def _seed(seed: int, purpose: Purpose) -> int:
    """Return a seed of its own for each use of a request's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) >> 1


def _stacked(parts: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.stack(found).to(device) if found else None
