"""What a group of videos has made so far, and one request's share of it as bytes.

Of the frames that are made, a `Canvas` keeps what later windows need and no more:

    below    float32, the finished level that the running one is filled in between; in the second
             stage the finished level that it enlarges (first stage's size)
    made     float32, the running level so far; while the video's own frames are made, the last one
    pixels   uint8, the video's frames so far

so it holds at most 12 bytes per pixel of two levels of the first stage and 3 bytes per pixel of
the video: 600 frames of 288x512 over 36x64 are 16 + 8 MB and 265 MB. A saved state is that, one
clip in float64 and its latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import safetensors.torch
import torch
from torch import Tensor

from serve.route import Leg
from train.diffusion.guidance import Known
from train.diffusion.sampler import SamplerState

FORMAT = 2
"""Version of the bytes; a state of another one is not read."""


@dataclass(frozen=True)
class Canvas:
    """The frames of a group (first axis: its rows) or of one request (without that axis).

    Attributes:
        below: [..., 3, f, h, w] in [-1, 1], or None.
        made: [..., 3, f, h, w] in [-1, 1], or None.
        pixels: [..., f, h, w, 3] on the CPU, or None.
    """

    below: Tensor | None = None
    made: Tensor | None = None
    pixels: Tensor | None = None

    def known(self, leg: Leg) -> Known | None:
        """Return the frames of a group's next window that are given; None where none is.

        The first stage is given what the level below has made, and either stage the last frame
        of the window before.
        """
        window = leg.window
        given = [index if leg.stage == 1 else None for index in window.known]
        size = self.made if window.carried else self.below
        if size is None or not (window.carried or any(index is not None for index in given)):
            return None
        clip = size.new_zeros(*size.shape[:2], len(given), *size.shape[3:])
        mask = torch.tensor([index is not None for index in given], device=size.device)
        if mask.any():
            assert self.below is not None, "a level that is filled in has one below"
            found = [index for index in given if index is not None]
            clip[:, :, mask] = self.below[:, :, found]
        if window.carried:
            assert self.made is not None, "a carried frame was made by the window before"
            clip[:, :, 0] = self.made[:, :, -1]
            mask[0] = True
        return Known(clip, mask.expand(len(clip), -1))

    def low(self, leg: Leg) -> Tensor:
        """Return the first stage's frames [b, 3, t, h, w] that a window enlarges."""
        assert self.below is not None, "the second stage follows the first"
        return self.below[:, :, list(leg.window.positions)]

    def with_clip(self, leg: Leg, clip: Tensor) -> "Canvas":
        """Return the canvas after a window: its `clip` [b, 3, t, h, w] in [-1, 1] is finished."""
        fresh = clip[:, :, 1:] if leg.window.carried else clip
        if leg.output:
            pixels = _joined(self.pixels, to_pixels(fresh), axis=1)
            return replace(self, made=clip[:, :, -1:].float(), pixels=pixels)
        made = _joined(self.made, fresh.float(), axis=2)
        return Canvas(below=made) if leg.ends_level else replace(self, made=made)

    def row(self, row: int) -> "Canvas":
        """Return one request's share, on the CPU."""
        return Canvas(*(None if part is None else part[row].cpu() for part in vars(self).values()))

    @classmethod
    def stack(cls, rows: Sequence["Canvas"], device: torch.device) -> Self:
        """Return the canvas of a group from those of its requests."""
        below = stacked([each.below for each in rows], device)
        made = stacked([each.made for each in rows], device)
        return cls(below, made, stacked([each.pixels for each in rows], torch.device("cpu")))


@dataclass(frozen=True)
class Saved:
    """One request's state between two steps; tensors lack the batch axis.

    Attributes:
        leg: Which walk of its route it is in; as many as there are when all are done.
        row: Its place in the group.
        rows: Rows of the group.
        state: Where the walk stands.
        canvas: What the walks before have made.
    """

    leg: int
    row: int
    rows: int
    state: SamplerState
    canvas: Canvas

    def pack(self) -> bytes:
        """Return the state as a safetensors file."""
        position = torch.tensor([FORMAT, self.leg, self.state.step, self.row, self.rows])
        tensors = {"position": position, "x": self.state.x, "latents": self.state.latents}
        tensors |= vars(self.canvas)
        packed: bytes = safetensors.torch.save(
            {name: each.contiguous() for name, each in tensors.items() if each is not None}
        )
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> "Saved":
        """Return the state that `pack` wrote.

        Raises:
            KeyError, ValueError, safetensors.SafetensorError: It is none, or of another format.
        """
        tensors = safetensors.torch.load(data)
        position = tensors["position"].tolist()
        if len(position) != 5 or position[0] != FORMAT:
            raise ValueError(f"a saved state of another format than {FORMAT}")
        leg, step, row, rows = position[1:]
        state = SamplerState(tensors["x"], step, tensors.get("latents"))
        canvas = Canvas(*(tensors.get(name) for name in Canvas.__dataclass_fields__))
        return cls(leg, row, rows, state, canvas)


def to_pixels(clips: Tensor) -> Tensor:
    """Return clips [b, 3, t, h, w] in [-1, 1] as uint8 [b, t, h, w, 3] on the CPU."""
    return ((clips + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu()


def stacked(parts: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """Return the parts as one tensor on `device`; None where they are."""
    found = [part for part in parts if part is not None]
    return torch.stack(found).to(device) if found else None


def _joined(before: Tensor | None, fresh: Tensor, axis: int) -> Tensor:
    return fresh if before is None else torch.cat([before, fresh], axis)
