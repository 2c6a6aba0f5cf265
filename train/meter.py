"""Counts what a piece of PyTorch costs, in FLOPs and in bytes alive, without computing it.

Under `pretended()` tensors have shapes and no memory (they are PyTorch's fake tensors, which live
on the meta device), so the largest networks are measured in seconds on any machine:

    with pretended(), Meter() as meter:
        loss = network(clip).sum()
        loss.backward()
    meter.flops, meter.peak_bytes

Outside `pretended()` it measures the same numbers while the piece really runs.
"""

import contextlib
import math
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

_CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Make tensors that have a shape, a type and a device but no memory; real ones may join in."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextlib.contextmanager
def real() -> Iterator[None]:
    """Make real tensors for a moment inside `pretended()`, where a value is looked at."""
    with unset_fake_temporarily():
        yield


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts FLOPs of matrix products and attention, and bytes of the storages made inside.

    Two FLOPs are one multiply-add. Fused attention counts as its matrix products, what its
    backward pass computes anew left out; what activation checkpointing computes anew counts.

    Attributes:
        flops: Counted so far.
        live_bytes: Storages made inside that are still alive.
        peak_bytes: The most that were alive at one time.
        peak_bytes_aside: The same without what was `set_aside`.
    """

    def __init__(self, given: Iterable[Tensor] = ()) -> None:
        """Start at 0; the storages of `given` tensors (weights, say) are not counted."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.flops = 0
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_bytes_aside = 0
        self._bytes_aside = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage] | None] = {
            tensor.untyped_storage()._cdata: None for tensor in given
        }

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - PyTorch's operators have no public type
        types: Any,  # noqa: ANN401 - as above
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operator returns
        """Run one operator and count it."""
        out = func(*args, **(kwargs or {}))
        self.flops += _flops(func, args, kwargs or {}, out)
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return out

    def set_aside(self, tensor: Tensor) -> None:
        """Leave a tensor out of `peak_bytes_aside` from now on."""
        self._bytes_aside += tensor.untyped_storage().nbytes()

    def gradients_of(self, network: nn.Module) -> None:
        """Set each gradient aside as soon as it is whole, as sharded training hands it on."""

        def whole(param: Tensor) -> None:
            if param.grad is not None:
                self.set_aside(param.grad)

        for param in network.parameters():
            hook = param.register_post_accumulate_grad_hook
            hook(whole)  # type: ignore[no-untyped-call]  # torch has no types here

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def freed(_: object) -> None:
            self.live_bytes -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, freed)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.peak_bytes_aside = max(self.peak_bytes_aside, self.live_bytes - self._bytes_aside)


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:  # noqa: ANN401 - operators, as above
    packet = getattr(func, "_overloadpacket", None)
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out))
    name = getattr(packet, "__name__", "")
    if name == _CPU_ATTENTION:
        return _attention_flops(args[0], args[1])
    if name == f"{_CPU_ATTENTION}_backward":
        return 2 * _attention_flops(args[1], args[2])
    return 0


def _attention_flops(q: Tensor, k: Tensor) -> int:
    """Return the FLOPs of q k' and of its product with v, for [batch, heads, tokens, width]."""
    return 4 * math.prod(q.shape[:-1]) * k.shape[-2] * q.shape[-1]
