"""Where each parameter lies in DeepSpeed's flat fp32 master tensors.

ZeRO flattens parameters, cuts the flat tensor among the ranks and hands the optimizer only its
piece, so whatever is defined per parameter (LAMB's trust ratio, a checkpoint that another world
size can read) must know which elements of which parameter it holds. `layout_of` reads that from
the wrapper that DeepSpeed chose and proves it before anything trains: every segment, cast down,
must be bit-equal to the slice of the model it claims to be, lie at the address it claims, and
all ranks together must hold every parameter exactly once. An unknown wrapper is refused.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from infra.errors import ConfigError


@dataclass(frozen=True)
class Segment:
    """A run of elements of one parameter inside a flat tensor."""

    name: str
    """The parameter's name in the model."""
    start: int
    """The first element, counted inside the flattened parameter."""
    offset: int
    """The same element, counted inside the flat tensor."""
    length: int
    """Elements in the run."""


@dataclass(frozen=True)
class Partition:
    """One fp32 tensor that the optimizer updates, and what lies in it."""

    flat: Tensor
    segments: tuple[Segment, ...]

    def view(self, segment: Segment, tensor: Tensor | None = None) -> Tensor:
        """Return the segment's elements in `flat`, or in a tensor of the same layout."""
        source = self.flat if tensor is None else tensor
        return source.detach().view(-1).narrow(0, segment.offset, segment.length)


@dataclass(frozen=True)
class Layout:
    """All flat tensors of this rank; `group` is None where every rank holds every parameter."""

    partitions: tuple[Partition, ...]
    shapes: dict[str, tuple[int, ...]]
    group: dist.ProcessGroup | None


def layout_of(engine: Any) -> Layout:  # noqa: ANN401 - DeepSpeed ships no types
    """Return the proven layout of a DeepSpeed engine's optimizer.

    Raises:
        ConfigError: The wrapper is not one whose layout is known, or the proof fails.
    """
    wrapper = engine.optimizer
    kind = type(wrapper).__name__
    read = _READERS.get(kind)
    if wrapper is engine.basic_optimizer:
        kind, read = "raw", _raw
    if read is None:
        raise ConfigError(
            f"train.zero_stage: DeepSpeed chose {kind}, whose layout is not known here; "
            f"known: {sorted(_READERS)}"
        )
    names = {id(p): name for name, p in engine.module.named_parameters() if p.requires_grad}
    shapes = {
        name: tuple(getattr(p, "ds_shape", p.shape))
        for name, p in engine.module.named_parameters()
        if p.requires_grad
    }
    pieces = list(read(wrapper))
    layout = Layout(
        tuple(Partition(flat, _named(places, names)) for flat, places in pieces),
        shapes,
        None if kind in ("raw", "FP16_UnfusedOptimizer") else dist.group.WORLD,
    )
    for flat, places in pieces:
        for place in places:
            _prove(flat, place, names)
    _prove_coverage(layout)
    return layout


@dataclass(frozen=True)
class _Place:
    """What a wrapper says of one parameter's piece, and the model's own memory for it."""

    param: Tensor
    start: int
    offset: int
    length: int
    low: Tensor | None
    address: int | None


_Pieces = Iterable[tuple[Tensor, list[_Place]]]


def _named(places: list[_Place], names: dict[int, str]) -> tuple[Segment, ...]:
    return tuple(Segment(names[id(p.param)], p.start, p.offset, p.length) for p in places)


def _raw(optimizer: Any) -> _Pieces:  # noqa: ANN401 - DeepSpeed ships no types
    """Stage 0 in fp32: the optimizer holds the parameters themselves."""
    for param in _only_group(optimizer)["params"]:
        yield param, [_Place(param, 0, 0, param.numel(), param.detach().view(-1), None)]


def _unfused(wrapper: Any) -> _Pieces:  # noqa: ANN401 - DeepSpeed ships no types
    """Stage 0 in low precision: one fp32 clone a parameter."""
    for param, clone in zip(wrapper.fp16_groups[0], wrapper.fp32_groups[0], strict=True):
        yield clone, [_Place(param, 0, 0, param.numel(), param.detach().view(-1), None)]


def _stage_1_and_2(wrapper: Any) -> _Pieces:  # noqa: ANN401 - DeepSpeed ships no types
    """Stages 1 and 2: one flat tensor, cut among ranks wherever the cut falls."""
    yield _cut(
        wrapper.single_partition_of_fp32_groups[0],
        wrapper.bit16_groups_flat[0],
        wrapper.round_robin_bit16_groups[0],
        wrapper.round_robin_bit16_offsets[0],
        dist.get_rank(wrapper.real_dp_process_group[0]),
    )


def _bf16(wrapper: Any) -> _Pieces:  # noqa: ANN401 - DeepSpeed ships no types
    """Stage 1 in bf16 with fp32 accumulation: as stage 1, never reordered."""
    params, offsets, total = wrapper.bf16_groups[0], [], 0
    for param in params:
        offsets.append(total)
        total += param.numel()
    yield _cut(
        wrapper.fp32_groups_flat_partition[0],
        wrapper.bf16_groups_flat[0],
        params,
        offsets,
        dist.get_rank(wrapper.real_dp_process_group[0]),
    )


def _cut(
    flat: Tensor, whole: Tensor, params: list[Tensor], offsets: list[int], rank: int
) -> tuple[Tensor, list[_Place]]:
    """Return the pieces of `params` that fall into this rank's part of `whole`."""
    first, size, places = rank * flat.numel(), flat.numel(), []
    for param, at in zip(params, offsets, strict=True):
        start, end = max(0, first - at), min(param.numel(), first + size - at)
        if start < end:
            address = whole.data_ptr() + (at + start) * whole.element_size()
            low = param.detach().view(-1)[start:end]
            places.append(_Place(param, start, at + start - first, end - start, low, address))
    return flat, places


def _stage_3(wrapper: Any) -> _Pieces:  # noqa: ANN401 - DeepSpeed ships no types
    """Stage 3: every parameter cut into equal pieces, the last ones padded with rubbish."""
    rank = dist.get_rank(wrapper.dp_process_group)
    for flat, params in zip(wrapper.fp32_partitioned_groups_flat, wrapper.fp16_groups, strict=True):
        places, offset = [], 0
        for param in params:
            piece = param.partition_numel()
            length = max(0, min(piece, param.ds_numel - rank * piece))
            if length:
                low = param.ds_tensor.detach().view(-1)[:length]
                places.append(_Place(param, rank * piece, offset, length, low, None))
            offset += piece
        yield flat, places


_READERS: dict[str, Callable[[Any], _Pieces]] = {
    "DeepSpeedZeroOptimizer": _stage_1_and_2,
    "BF16_Optimizer": _bf16,
    "DeepSpeedZeroOptimizer_Stage3": _stage_3,
    "FP16_UnfusedOptimizer": _unfused,
}


def _only_group(optimizer: Any) -> dict[str, Any]:  # noqa: ANN401 - DeepSpeed ships no types
    groups: list[dict[str, Any]] = optimizer.param_groups
    assert len(groups) == 1, f"one parameter group is assumed everywhere, got {len(groups)}"
    return groups[0]


def _prove(flat: Tensor, place: _Place, names: dict[int, str]) -> None:
    """Check one segment against the model's memory: same bits, and the same address."""
    assert place.low is not None
    name = names[id(place.param)]
    mine = flat.detach().view(-1).narrow(0, place.offset, place.length)
    same = torch.equal(mine.to(place.low.device, place.low.dtype), place.low)
    moved = place.address is not None and place.address != place.low.data_ptr()
    if not same or moved:
        raise ConfigError(
            f"the DeepSpeed partition of '{name}' does not hold what its layout says "
            f"({'other values' if not same else 'another address'}); training would be wrong. "
            "Use the pinned DeepSpeed version, or train.zero_stage 0"
        )


def _prove_coverage(layout: Layout) -> None:
    """Check that the ranks together hold each element of each parameter once."""
    names = list(layout.shapes)
    held = dict.fromkeys(names, 0)
    for partition in layout.partitions:
        for segment in partition.segments:
            held[segment.name] += segment.length
    counts = torch.tensor([held[name] for name in names], dtype=torch.int64)
    if layout.group is not None:
        device = layout.partitions[0].flat.device
        counts = counts.to(device)
        dist.all_reduce(counts, group=layout.group)
    for name, count in zip(names, counts.tolist(), strict=True):
        expected = torch.Size(layout.shapes[name]).numel()
        if count != expected:
            raise ConfigError(
                f"the DeepSpeed partitions hold {count} elements of '{name}', not {expected}; "
                "use the pinned DeepSpeed version, or train.zero_stage 0"
            )
