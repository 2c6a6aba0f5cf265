"""One rank of the memorisation test: micro FIT learns four clips by heart under ZeRO-2.

Usage: python -m tests.train.memorise_rank OUT_DIR, with torch.distributed's variables set.
Leaves the averaged weights in OUT_DIR/ema, and the losses in OUT_DIR/losses.json.
"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.train import discs
from train import checkpoint, engine
from train.diffusion.edm import draw, training_loss
from train.lamb import LambSettings
from train.model.fit import Fit
from train.model.presets import PRESETS

STEPS, WARMUP, BATCH, LR = 1400, 40, 16, 1e-2


def main(out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    eng, lamb = engine.start(
        Fit(PRESETS["micro"]),
        LambSettings(),
        zero_stage=2,
        precision="fp32",
        batch_per_worker=BATCH // world,
        clip_norm=1.0,
    )
    torch.manual_seed(1 + rank)
    clips, losses = discs.clips(), []
    for step in range(STEPS):
        numbers = range(step * BATCH + rank, (step + 1) * BATCH, world)
        chosen = [number % len(clips) for number in numbers]
        draws = draw([10_000 + n for n in numbers], clips.shape[1:], discs.EDM)
        loss = training_loss(eng, clips[chosen], discs.prompts(chosen), discs.EDM, draws).mean()
        eng.backward(loss)
        lamb.set_lr(learning_rate(step))
        eng.step()
        losses.append(loss.item())
    target = out / "ema"
    target.mkdir(exist_ok=True)
    checkpoint.write(target, lamb, {"step": STEPS})
    if rank == 0:
        (out / "losses.json").write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


def learning_rate(step: int) -> float:
    return LR * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / STEPS)) / 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
