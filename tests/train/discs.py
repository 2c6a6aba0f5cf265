"""Four clips to learn by heart: three stills and one video of a coloured disc."""

import torch
from torch import Tensor

from train.diffusion.edm import Edm, input_scale
from train.model.fit import Conditioning, framerate_token

FRAMES, HEIGHT, WIDTH = 4, 12, 16
EDM = Edm(sigma_in=input_scale(FRAMES, WIDTH, WIDTH))

#: colour in [-1, 1]; centre x and y in the first frame; pixels moved right per frame
SCENES = (
    ((0.9, -0.7, -0.7), (4.0, 4.0), 0.0),
    ((-0.7, 0.8, -0.6), (11.0, 4.0), 0.0),
    ((-0.6, -0.5, 0.9), (5.0, 8.0), 0.0),
    ((0.8, 0.8, -0.8), (10.0, 8.0), 1.0),
)


def clips() -> Tensor:
    """Return the clips [4, 3, 4, 12, 16]."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    scenes = []
    for colour, (centre_x, centre_y), speed in SCENES:
        frames = []
        for time in range(FRAMES):
            distance = torch.hypot(x - centre_x - speed * time, y - centre_y)
            inside = (3.0 - distance).clamp(0, 1)
            frames.append(-0.3 + inside * (torch.tensor(colour)[:, None, None] + 0.3))
        scenes.append(torch.stack(frames, dim=1))
    return torch.stack(scenes)


def prompts(chosen: list[int]) -> Conditioning:
    """Return the conditioning of some of the clips: two text tokens each."""
    words = torch.randn(8, 16, generator=torch.Generator().manual_seed(7))
    text = torch.stack([words[[scene, 4 + (scene == 3)]] for scene in chosen])
    speeds = torch.tensor([6.0 if scene == 3 else float("inf") for scene in chosen])
    count = len(chosen)
    return Conditioning(
        text=text,
        text_mask=torch.ones(count, 2, dtype=torch.bool),
        drop=torch.zeros(count, dtype=torch.bool),
        framerate=framerate_token(speeds),
        resolution=torch.zeros(count, 2),
        resolution_known=torch.ones(count, dtype=torch.bool),
    )
