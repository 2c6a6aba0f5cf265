"""One rank of the ZeRO tests: runs every case of its world size, rank by rank over gloo.

Usage: python ranks.py CASES.json OUT_DIR, with torch.distributed's variables set.
Each case trains the toy model with known gradients and leaves OUT_DIR/<case>.safetensors.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from infra.errors import ConfigError
from tests.train import toy
from train import checkpoint, engine, partitions
from train.lamb import KINDS, LambSettings


def main(cases_path: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case in json.loads(cases_path.read_text()):
        run_case(case, out)
        dist.barrier()
    dist.destroy_process_group()


def run_case(case: dict, out: Path) -> None:
    model = toy.Toy()
    folder = Path(case["load"]) if case.get("load") else None
    if folder:
        model.load_state_dict(checkpoint.weights(folder, "weight"), strict=False)
    eng, lamb = engine.start(
        model,
        LambSettings(**case.get("lamb", {})),
        zero_stage=case["stage"],
        precision="fp32",
        batch_per_worker=1,
        clip_norm=case.get("clip", 0.0),
        extra=case.get("extra"),
    )
    if case.get("naive"):
        lamb.step = lambda closure=None: toy.naive_step(lamb)
    if case.get("tamper"):
        save_file({"refused": torch.tensor(float(refused(eng, case["tamper"])))}, file(out, case))
        return
    first = checkpoint.restore(folder, lamb)["step"] if folder else 0
    for step in range(first, case.get("steps", toy.STEPS)):
        lamb.set_lr(toy.LR)
        loss = eng(*toy.gradients(step, dist.get_rank(), case.get("nan_at")))
        eng.backward(loss)
        eng.step()
    target = Path(case["save"]) if case.get("save") else out / f"{case['name']}-state"
    target.mkdir(parents=True, exist_ok=True)
    checkpoint.write(target, lamb, {"step": case.get("steps", toy.STEPS)})
    dist.barrier()
    if dist.get_rank() == 0:
        whole = {f"{k}|{n}": t for k in KINDS for n, t in checkpoint.weights(target, k).items()}
        if not case.get("naive"):
            whole |= {f"ratio|{n}": torch.tensor(r) for n, r in lamb.trust_ratios().items()}
        save_file(whole, file(out, case))


def refused(eng: object, how: str) -> bool:
    """Break what the wrapper says of itself; return whether the proof sees it."""
    wrapper = eng.optimizer
    if how == "offsets":
        wrapper.round_robin_bit16_offsets[0][2] += 1
    elif how == "order":
        params = wrapper.round_robin_bit16_groups[0]
        params[:] = params[::-1]
    elif how == "values":
        wrapper.single_partition_of_fp32_groups[0].data[3] += 1.0
    try:
        partitions.layout_of(eng)
    except ConfigError:
        return True
    return False


def file(out: Path, case: dict) -> Path:
    folder = out if dist.get_rank() == 0 else out / "others"
    folder.mkdir(exist_ok=True)
    return folder / f"{case['name']}.safetensors"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
