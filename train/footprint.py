"""How much memory one worker holds in training, by what DeepSpeed's ZeRO stage shards.

The arithmetic follows what `train.engine` and `train.lamb` keep, everything in fp32: weights,
gradients, and for each weight LAMB's two moments and the average (ZeRO 1 to 3 also a master copy).
A step needs two more tensors of the optimizer's size. Compared with the storages that real engines
hold, with one and two workers (`tests/train/test_describe.py`).
"""

from dataclasses import dataclass
from typing import Literal

ZeroStage = Literal[0, 1, 2, 3]
STAGES: tuple[ZeroStage, ...] = (0, 1, 2, 3)
Precision = Literal["fp32", "bf16"]

WORD = 4
"""Bytes of an fp32 number."""
BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default `reduce_bucket_size`: gradients are collected in buffers of this length."""
SMALL_ELEMENTS = 100_000
"""DeepSpeed's default `stage3_param_persistence_threshold`: shorter parameters stay whole."""
GATHERED_ELEMENTS = 1_000_000_000
"""DeepSpeed's default `stage3_max_live_parameters`: ZeRO-3 keeps at most so many gathered."""


@dataclass(frozen=True)
class Activations:
    """The most that one forward and backward pass holds besides weights, in bytes.

    Attributes:
        sharded: With each gradient handed on as soon as it is whole.
        with_gradients: With all gradients kept until the step.
    """

    sharded: int
    with_gradients: int


@dataclass(frozen=True)
class TrainingMemory:
    """What one worker holds, in bytes.

    Attributes:
        stage: The ZeRO stage.
        weights: Weights; at stage 3 also those gathered during a pass.
        gradients: Gradients kept until the step.
        optimizer: Master weights, moments, average.
        buffers: DeepSpeed's buffers for the gradients' journey. On a host without a GPU they are
            reserved but mostly never touched, so they do not show as used memory.
        activations: Peak of a pass besides the above.
        peak: The most at one time: in the pass, or in the step after it.
    """

    stage: ZeroStage
    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    peak: int


def training_memory(
    stage: ZeroStage,
    sizes: list[int],
    activations: Activations,
    workers: int,
    precision: Precision,
) -> TrainingMemory:
    """Return what a worker of a ZeRO stage holds.

    Args:
        stage: The ZeRO stage.
        sizes: Elements of every parameter.
        activations: Measured for this worker's batch.
        workers: Workers that the stage shards among.
        precision: With bf16 DeepSpeed keeps one more bucket, for the matrices.
    """
    whole = WORD * sum(sizes)
    share = whole // workers
    if stage == 0:
        return _unsharded(whole, activations)
    num_buckets = 2 if precision == "bf16" else 1
    weights, buffers = whole, num_buckets * BUCKET_ELEMENTS * WORD
    if stage == 3:
        small = WORD * sum(size for size in sizes if size < SMALL_ELEMENTS)
        gathered = min(whole - small, GATHERED_ELEMENTS * WORD)
        weights = share + small + gathered
        buffers = BUCKET_ELEMENTS * (WORD + 2 * (num_buckets - 1))
    optimizer = 4 * share
    kept = weights + optimizer + share
    in_pass = kept + buffers + activations.sharded
    in_step = kept + 2 * share + (buffers if stage == 3 else 0)
    return TrainingMemory(
        stage, weights, share, optimizer, buffers, activations.sharded, max(in_pass, in_step)
    )


def _unsharded(whole: int, activations: Activations) -> TrainingMemory:
    """Stage 0: no master copy, whole gradients, and one flat copy of them to be averaged."""
    buffer = min(whole, BUCKET_ELEMENTS * WORD)
    kept = whole + 3 * whole
    in_pass = kept + max(activations.with_gradients, whole + buffer)
    in_step = kept + whole + 2 * whole
    return TrainingMemory(
        0, whole, whole, 3 * whole, buffer, activations.sharded, max(in_pass, in_step)
    )
