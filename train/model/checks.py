"""Refusals that the maths shares: tensors whose values must be above 0."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def above_zero(values: Tensor, name: str, advice: str = "") -> None:
    """Refuse `values` of which one is 0, negative or not a number.

    Looking at a tensor would make the program wait for an accelerator. There the device is told to
    stop by itself, which it does with a RuntimeError at a later call.

    Args:
        values: Any shape.
        name: What they are.
        advice: What to do about it, or what would be accepted.

    Raises:
        ValueError: A value is not above 0 (tensors on the CPU).
    """
    if values.device.type == "meta" or isinstance(values, FakeTensor):  # no values to look at
        return
    good = (values > 0).all()
    text = f"{name} must be above 0"
    if values.device.type != "cpu":
        torch._assert_async(good, text)
    elif not good:
        bad = values[~(values > 0)].flatten()[0].item()
        raise ValueError(f"{text}, got {bad:g}" + (f"; {advice}" if advice else ""))
