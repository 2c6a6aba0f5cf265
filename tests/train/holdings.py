"""What real training holds in memory, for the tests of `train.describe`; Linux only.

python -m tests.train.holdings          prints the bytes that one real pass takes
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from train import describe, engine
from train.footprint import STAGES
from train.lamb import LambSettings
from train.model.networks import build
from train.model.presets import PRESETS

PRESET, BATCH = "tiny", 16


def kept_between_steps(rank: int, num_ranks: int, out: str) -> None:
    """Train two steps under each ZeRO stage; rank 0 writes the bytes of all tensors by stage."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed insists
    dist.init_process_group("gloo", f"file://{out}.meet", world_size=num_ranks, rank=rank)
    kept = {}
    for stage in STAGES:
        model = build(PRESETS[PRESET])
        eng, lamb = engine.start(
            model, LambSettings(), zero_stage=stage, precision="fp32", batch_per_worker=1,
            clip_norm=1.0,
        )  # fmt: skip
        for _ in range(2):
            cond = describe.conditioning(model.config, 1, 4)
            clips = torch.zeros(1, *model.config.clip_shape)
            eng.backward(eng(clips, torch.zeros(1), cond)[0].square().mean())
            lamb.set_lr(1e-3)
            eng.step()
        kept[stage] = bytes_of_tensors()
        eng.destroy()
        del model, eng, lamb
    if rank == 0:
        Path(out).write_text(json.dumps(kept))
    dist.destroy_process_group()


def bytes_of_tensors() -> int:
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if isinstance(each, torch.Tensor):
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_of_a_pass() -> int:
    """Return how much the process grew at most in a pass, once the libraries are warm."""
    torch.set_num_threads(1)
    model = build(PRESETS[PRESET]).train()
    warm = build(PRESETS["micro"]).train()
    setup = describe.Setup(batch=BATCH, precision="fp32")
    describe.training_pass("micro", warm, setup)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    describe.training_pass(PRESET, model, setup)
    return status("VmHWM") - before


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    sys.stdout.write(str(peak_of_a_pass()))
