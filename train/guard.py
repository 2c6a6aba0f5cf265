"""Stop training at a loss that is not finite, and say which clips gave it.

One poisoned caption or a learning rate too high would otherwise spoil the weights of every rank.
The ranks agree each step by one reduction of a single number, made after the backward pass, when
they have to wait for each other anyway, and before the weights are touched. If one has seen such a
loss, all of them write down what they had before them and end without an error, so that Ray Train
does not start them again; the driver finds the report and raises.

    nonfinite-<attempt>.json   {"step": 13, "resumes_at": 12, "ranks": [{"rank": 0, "clips": [
                                {"clip_id": ..., "loss": "nan", "sigma": ..., "seed": ...}]}]}
"""

import datetime as dt
import json
import math
import secrets
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from infra import storage
from infra.errors import DataError
from train.data import Batch
from train.diffusion.edm import Draws
from train.lamb import Lamb

_SHOWN = 5


def report_uri(state_uri: str) -> str:
    """Return where this attempt would leave its report; no two attempts share one."""
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    return storage.join(state_uri, f"nonfinite-{now}-{secrets.token_hex(2)}.json")


def all_true(mine: Tensor) -> bool:
    """Return whether every element is True on every rank; every rank must ask."""
    agreed = mine.all().float()
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed)


def stop(
    uri: str, step: int, saved: int, lamb: Lamb, batch: Batch, losses: Tensor, draws: Draws
) -> bool:
    """Write what every rank had before it in a step; return whether the weights are to be saved.

    They are, unless they are not finite either or the last checkpoint has them already. Every rank
    calls this; rank 0 writes.

    Args:
        uri: See `report_uri`.
        step: Steps made so far; the one that was not made is the next.
        saved: Steps in the last checkpoint.
        lamb: Bound to the engine.
        batch: This rank's share.
        losses: Each clip's loss [batch].
        draws: What was random about the batch.
    """
    whole = _weights_are_finite(lamb) and step > saved
    mine = [
        {"clip_id": clip_id, "loss": _plain(loss), "sigma": _plain(sigma), "seed": seed}
        for clip_id, loss, sigma, seed in zip(
            batch.clip_ids, losses.tolist(), draws.sigma.tolist(), batch.seeds, strict=True
        )
    ]
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, {"rank": dist.get_rank(), "clips": mine})
    if dist.get_rank() == 0:
        facts = {"step": step + 1, "resumes_at": step if whole else saved, "ranks": ranks}
        storage.write_bytes(uri, json.dumps(facts, indent=1).encode())
    dist.barrier()
    return whole


def raise_if_stopped(uri: str, run_name: str) -> None:
    """Raise the fault that a report describes; nothing where there is none.

    Raises:
        DataError: Training stopped; the message names clips and the report.
    """
    if not storage.exists(uri):
        return
    facts = json.loads(storage.read_text(uri))
    clips = [clip for rank in facts["ranks"] for clip in rank["clips"]]
    guilty = [clip["clip_id"] for clip in clips if isinstance(clip["loss"], str)]
    named = ", ".join(guilty[:_SHOWN]) + (", ..." if len(guilty) > _SHOWN else "")
    raise DataError(
        f"{run_name}: the loss of step {facts['step']} is not finite for {len(guilty)} of "
        f"{len(clips)} clips ({named}); {uri} lists the whole batch. Look at these clips and their "
        "captions, or lower optimizer.lr where the loss was rising before; the same command tries "
        f"again from step {facts['resumes_at']}"
    )


def _weights_are_finite(lamb: Lamb) -> bool:
    """Return whether the masters of every rank are finite; every rank must ask."""
    assert lamb.layout is not None, "bind() must come first"
    flats = [partition.flat.detach() for partition in lamb.layout.partitions]
    return all_true(torch.stack([flat.isfinite().all() for flat in flats]))


def _plain(value: float) -> float | str:
    """Return a number that JSON has, or the name of one that it lacks."""
    return value if math.isfinite(value) else str(value)
