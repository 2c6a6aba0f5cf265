"""From prompts to frames: both stages of the cascade, step by step, without Ray.

A `Denoising` is a group of requests of one shape that share every forward pass. It walks window
after window (`serve.route`): a video no longer than the model's clip is one window per stage, a
longer one is made coarse framerate first and then filled in, each window given the frames that are
known already. Its whole state between two steps is plain tensors, so any of its requests can be
saved, and taken up again by another process with the identical result.

Each request's noise comes from its own seed and texts are padded to one length, so a video does
not depend on what it is denoised with. What a matrix product's rounding may depend on is the
number of rows and, with very few, the place among them (measured on CPU: other mates 0, other
rows at most 1e-6 in pixels of [-1, 1], so at most one grey level). Hence group sizes are rounded
up to powers of two, and a saved request goes on in the row it had.

    generator = Generator(stage1, stage2, encoder, framerates=(24, 12, 6, 3))
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
import torch
from torch import Tensor
from torch.nn import functional

from serve import route
from serve.route import Leg
from serve.schema import VideoRequest
from serve.state import Canvas, Saved, stacked, to_pixels
from train.diffusion import hierarchy, sampler
from train.diffusion.edm import Edm, low_res_condition
from train.diffusion.guidance import Guidance, GuidedDenoiser
from train.diffusion.hierarchy import Plan
from train.diffusion.sampler import SamplerState
from train.model.fit import Conditioning, framerate_token, resolution_token
from train.model.networks import Network
from train.text import TextEncoder

Frames = npt.NDArray[np.uint8]
Purpose = Literal["stage1", "stage2", "low_res"]
Item = TypeVar("Item")
_CACHED_TEXTS = 4096


@dataclass(frozen=True)
class Stage:
    """One network of the cascade with the diffusion it was trained under."""

    network: Network
    edm: Edm


class Generator:
    """The weights of one model, ready to sample on one device."""

    def __init__(
        self,
        stage1: Stage,
        stage2: Stage | None,
        encoder: TextEncoder,
        *,
        framerates: Sequence[float] = (),
        source_size: tuple[int, int] | None = None,
        device: str = "cpu",
    ) -> None:
        """Take the networks.

        Args:
            stage1: The network that starts from noise.
            stage2: The upsampler, or None.
            encoder: Reads prompts.
            framerates: What the first stage was trained at; a long video is laid out within
                their range. Empty makes it at its own framerate throughout.
            source_size: Height and width in pixels that the network is told its clip was
                recorded at; None tells it nothing.
            device: Where to sample.
        """
        self.device = torch.device(device)
        self.stages = [stage for stage in (stage1, stage2) if stage is not None]
        for stage in self.stages:
            stage.network.eval().requires_grad_(requires_grad=False).to(self.device)
        self._encoder, self._framerates = encoder, tuple(framerates)
        self._source_size = source_size
        self._embed = functools.lru_cache(_CACHED_TEXTS)(self._embed_one)

    def begin(self, requests: Sequence[VideoRequest]) -> "Denoising":
        """Return requests of one `batch_key` before their first step."""
        return Denoising(self, requests, rows=_bucket(len(requests)))

    def resume(self, requests: Sequence[VideoRequest], saved: Sequence[Saved]) -> "Denoising":
        """Return requests of one group, or some of them, as they were saved at one step."""
        return Denoising(self, requests, rows=saved[0].rows, saved=saved)

    def plan(self, request: VideoRequest) -> Plan:
        """Return the levels and windows that a video is made in.

        Raises:
            ValueError: Its framerate is none that the model was trained at.
        """
        clip_frames = self.stages[0].network.config.frames
        ladder = self._framerates or (request.fps,)
        return hierarchy.plan(request.num_frames, request.fps, clip_frames, ladder)

    def warnings(self, request: VideoRequest) -> list[str]:
        """Return what a request says that the network does not get to hear."""
        most, found = self._encoder.settings.max_tokens, []
        for name, text in (
            ("prompt", request.prompt),
            ("negative_prompt", request.negative_prompt),
        ):
            count = self._encoder.num_tokens(text)
            if count > most:
                found.append(f"{name}: only the first {most} of its {count} tokens were read")
        return found

    def conditioning(
        self, requests: Sequence[VideoRequest], framerates: Sequence[float]
    ) -> tuple[Conditioning, Conditioning]:
        """Return what the network is told with the prompts, and with the negative prompts.

        Args:
            requests: One per row.
            framerates: Frames per second of each row's window.
        """
        text, mask = self._texts([request.prompt for request in requests])
        none = torch.zeros(len(requests), dtype=torch.bool)
        height, width = self._source_size or (64, 64)
        size = torch.tensor([height, width], dtype=torch.float32).expand(len(requests), 2)
        cond = Conditioning(
            text=text,
            text_mask=mask,
            drop=none,
            framerate=framerate_token(torch.tensor(framerates)),
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
        self._plans = [generator.plan(request) for request in self._requests]
        assert len({route.shape(plan) for plan in self._plans}) == 1, "a group has one shape"
        self._legs = route.route(self._plans[0], len(generator.stages))
        self._num_steps = (requests[0].steps, requests[0].steps_2)
        self.steps_total = route.count_steps(self._legs, self._num_steps)
        self._at, self._canvas = 0, Canvas()
        self._seen: Tensor | None = None
        if saved:
            self._restore(_placed(saved, self._places, rows))
        else:
            self._state = self._noise()
        self._denoiser = None if self.done else self._make_denoiser()

    @property
    def done(self) -> bool:
        """Whether the last window has made its last step."""
        return self._at == len(self._legs)

    @property
    def stage(self) -> int:
        """The running stage, 1 or 2."""
        return self._legs[min(self._at, len(self._legs) - 1)].stage

    @property
    def step(self) -> int:
        """Steps done in all windows of the running stage."""
        if self.stage == 1:
            return self.steps_done
        first = [leg for leg in self._legs if leg.stage == 1]
        return self.steps_done - route.count_steps(first, self._num_steps)

    @property
    def steps_done(self) -> int:
        """Steps done in all windows of all stages."""
        before = route.count_steps(self._legs[: self._at], self._num_steps)
        return before if self.done else before + self._state.step

    @property
    def progress(self) -> int:
        """Steps done, in percent of all; 99 until the video is encoded."""
        return min(99, 100 * self.steps_done // self.steps_total)

    def advance(self) -> None:
        """Make one step; at the end of a window, also enter the next one."""
        assert self._denoiser is not None, "nothing follows the last step"
        num_steps = self._num_steps[self.stage - 1]
        self._state = sampler.walk(
            self._denoiser, self._state, self._edm, num_steps, on_step=self._see
        )
        if self._state.step < num_steps:
            return
        clip = sampler.finish(self._state, self._edm, self._denoiser.known).clamp(-1, 1)
        self._canvas = self._canvas.with_clip(self._legs[self._at], clip)
        self._at += 1
        if not self.done:
            self._state = self._noise()
            self._denoiser = self._make_denoiser()

    def preview(self, index: int) -> Frames:
        """Return the window of one request as its last step saw it clean, uint8 [T, H, W, 3]."""
        assert self._seen is not None, "there is a preview after each step"
        row = self._places[index]
        return _frames(to_pixels(self._seen[row : row + 1].clamp(-1, 1))[0])

    def save(self, index: int) -> Saved:
        """Return the state of one request."""
        row, latents = self._places[index], self._state.latents
        state = SamplerState(
            self._state.x[row].cpu(),
            self._state.step,
            None if latents is None else latents[row].cpu(),
        )
        return Saved(self._at, row, self.rows, state, self._canvas.row(row))

    def videos(self) -> list[Frames]:
        """Return each request's frames, uint8 [num_frames, H, W, 3]."""
        pixels = self._canvas.pixels
        assert self.done, "videos are read after the last step"
        assert pixels is not None, "the last windows make pixels"
        return [_frames(pixels[row, : self._requests[row].num_frames]) for row in self._places]

    @property
    def _edm(self) -> Edm:
        return self._generator.stages[self.stage - 1].edm

    def _see(self, _step: int, _num_steps: int, clean: Tensor) -> bool:
        """Keep what a step saw and stop the walk after it."""
        self._seen = clean
        return True

    def _noise(self) -> SamplerState:
        """Return the state before a window's first step."""
        leg = self._legs[self._at]
        shape = self._generator.stages[leg.stage - 1].network.config.clip_shape
        seeds = self._seeds(leg, "stage1" if leg.stage == 1 else "stage2")
        state = sampler.begin(seeds, shape, self._edm, self._canvas.known(leg))
        return SamplerState(state.x.to(self._generator.device))

    def _seeds(self, leg: Leg, purpose: Purpose) -> list[int]:
        return [_seed(request.seed, purpose + leg.seed_name) for request in self._requests]

    def _restore(self, saved: Sequence[Saved]) -> None:
        device = self._generator.device
        self._at = saved[0].leg
        self._state = SamplerState(
            torch.stack([each.state.x for each in saved]).to(device),
            saved[0].state.step,
            stacked([each.state.latents for each in saved], device),
        )
        self._canvas = Canvas.stack([each.canvas for each in saved], device)

    def _make_denoiser(self) -> GuidedDenoiser:
        leg, first = self._legs[self._at], self._requests[0]
        level = leg.window.level
        cond, negative = self._generator.conditioning(
            self._requests, [plan.levels[level].fps for plan in self._plans]
        )
        if leg.stage == 1:
            guidance = Guidance(
                first.guidance, first.guidance_low, reconstruction=first.reconstruction
            )
        else:
            low, c_aug = self._enlarged(leg)
            cond, negative = cond.with_low_res(low, c_aug), negative.with_low_res(low, c_aug)
            guidance = Guidance(first.guidance_2, reconstruction=first.reconstruction)
        network = self._generator.stages[leg.stage - 1].network
        known = self._canvas.known(leg)
        return GuidedDenoiser(network, self._edm, cond, guidance, negative, known)

    def _enlarged(self, leg: Leg) -> tuple[Tensor, Tensor]:
        """Return the first stage's frames as the second one reads them, and how noisy they are."""
        low, config = self._canvas.low(leg), self._generator.stages[1].network.config
        noise = sampler.unit_noise(self._seeds(leg, "low_res"), low.shape[1:])
        sigma = torch.tensor([request.sigma_aug for request in self._requests])
        size = (config.height, config.width)
        return low_res_condition(
            low, noise.float().to(low.device), sigma.to(low.device), size, self._edm.sigma_data
        )


def _bucket(count: int) -> int:
    """Return the next power of two."""
    return 1 << (count - 1).bit_length()


def _placed(items: Sequence[Item], places: Sequence[int], rows: int) -> list[Item]:
    """Return `rows` items: each at its place, copies of the last one in between."""
    by_place = dict(zip(places, items, strict=True))
    return [by_place.get(row, items[-1]) for row in range(rows)]


def _seed(seed: int, purpose: str) -> int:
    """Return a seed of its own for each use of a request's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) >> 1


def _frames(pixels: Tensor) -> Frames:
    frames: Frames = pixels.numpy()
    return frames
