"""The small world that experiments train on: coloured shapes that move or rest, and their words.

Clips are drawn in memory by `train.metrics.shapes` at the size of the network; a text is one token
per attribute from a fixed random table, so no encoder is learned and none can differ between runs.

    videos = library(1500, seed=1, still=False)
    cond = prompts(videos.shown[:4])
"""

import functools
import random
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from train.metrics import shapes
from train.metrics.attributes import CHOICES, Attributes, combinations, stills
from train.model.fit import Conditioning, framerate_token

FRAMES, HEIGHT, WIDTH, TEXT_WIDTH = 4, 8, 8, 32
VIDEO_FPS = 8.0
"""Any finite framerate would do: there is one, and stills have an infinite one."""


ALWAYS = {"shape": "circle", "speed": "quickly", "background": "plain charcoal"}
"""What all clips share, so that colour, size and motion are learned within a minute."""


@dataclass(frozen=True)
class Library:
    """Clips and what they show.

    Attributes:
        clips: In [-1, 1], [n, 3, FRAMES, HEIGHT, WIDTH]; a still is repeated over the frames.
        shown: The attributes of each clip; a still has no direction.
    """

    clips: Tensor
    shown: tuple[Attributes, ...]


@functools.cache
def library(num_clips: int, seed: int, *, still: bool) -> Library:
    """Return clips of every combination in turn, each a random scene; cached: never change it."""
    every = stills() if still else combinations(held_out=False)
    pool = [one for one in every if _is_ours(one)]
    random.Random(seed).shuffle(pool)
    shown = tuple(pool[i % len(pool)] for i in range(num_clips))
    drawn = [
        shapes.clip(one, seed * 1_000_003 + i, 1 if still else FRAMES, WIDTH, HEIGHT)
        for i, one in enumerate(shown)
    ]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 4, 1, 2, 3)
    return Library((pixels / 127.5 - 1).expand(-1, -1, FRAMES, -1, -1).contiguous(), shown)


def prompts(shown: tuple[Attributes, ...]) -> Conditioning:
    """Return what a network is told about clips that show these attributes."""
    table = _words()
    kinds = [f.name for f in fields(Attributes)]
    said = [[getattr(one, kind) for kind in kinds] for one in shown]
    text = torch.stack([torch.stack([table[w] for w in words]) for words in said])
    mask = torch.tensor([[word is not None for word in words] for words in said])
    fps = [VIDEO_FPS if one.direction else float("inf") for one in shown]
    count = len(shown)
    return Conditioning(
        text=text,
        text_mask=mask,
        drop=torch.zeros(count, dtype=torch.bool),
        framerate=framerate_token(torch.tensor(fps)),
        resolution=torch.zeros(count, 2),
        resolution_known=torch.ones(count, dtype=torch.bool),
    )


def _is_ours(shown: Attributes) -> bool:
    return all(getattr(shown, name) in (None, value) for name, value in ALWAYS.items())


def _words() -> dict[str | None, Tensor]:
    """Return a vector for each word, zeros for one that is not said."""
    words = [word for choices in CHOICES.values() for word in choices]
    rows = torch.randn(len(words), TEXT_WIDTH, generator=torch.Generator().manual_seed(7))
    return {None: torch.zeros(TEXT_WIDTH), **dict(zip(words, rows, strict=True))}
