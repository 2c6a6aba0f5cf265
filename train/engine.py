"""The DeepSpeed engine of one worker, and the settings it is built from.

The process group must exist (Ray Train makes it). On hosts without a GPU DeepSpeed would compile
a shared-memory all-reduce at start; it is switched off, so neither training nor the tests need a
compiler.
"""

import logging
import os
from typing import Any, Literal

import torch
from torch import nn

from train.lamb import Lamb, LambSettings

Precision = Literal["fp32", "bf16"]


def start(
    model: nn.Module,
    lamb: LambSettings,
    *,
    zero_stage: int,
    precision: Precision,
    batch_per_worker: int,
    clip_norm: float,
    compiled: bool = False,
    extra: dict[str, Any] | None = None,
) -> tuple[Any, Lamb]:
    """Return DeepSpeed's engine around `model`, and the optimizer bound to it.

    Args:
        model: On the CPU or this worker's device, in fp32.
        lamb: The optimizer's settings.
        zero_stage: 0 to 3.
        precision: Of matrix products; with bf16, norms, softmax and masters stay fp32.
        batch_per_worker: Samples per step and worker (no accumulation).
        clip_norm: Global gradient norm above which gradients are scaled down; 0 is off.
        compiled: Run the model through torch.compile; its parameters keep their names. Not with
            ZeRO-3, whose hooks on every layer would cut the graph to pieces.
        extra: DeepSpeed settings over ours, for tests of its layouts.

    Raises:
        ConfigError: DeepSpeed chose a wrapper whose layout is unknown or not as it says.
    """
    deepspeed = _import_deepspeed()
    config = {
        "train_micro_batch_size_per_gpu": batch_per_worker,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "zero_optimization": {"stage": zero_stage, "overlap_comm": torch.cuda.is_available()},
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
        "communication_data_type": "fp32",
    }
    for key, value in (extra or {}).items():
        old = config.get(key)
        config[key] = old | value if isinstance(old, dict) else value
    optimizer = Lamb(model, lamb)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    optimizer.bind(engine)
    if compiled:
        engine.compile()
    return engine, optimizer


def _import_deepspeed() -> Any:  # noqa: ANN401 - DeepSpeed ships no types
    """Import DeepSpeed for this host's accelerator, quiet and without compiled operations."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # type: ignore[import-untyped]
    import deepspeed.ops  # type: ignore[import-untyped]

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not torch.distributed.is_initialized():
        raise AssertionError("the process group must exist before the engine")
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
    return deepspeed
