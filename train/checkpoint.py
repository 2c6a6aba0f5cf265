"""Training state as named fragments, which any number of ranks and any ZeRO stage can read.

Each rank writes the pieces it holds, `name|kind|start`, in one safetensors file with a checksum
beside it; no piece is sent anywhere. A reader takes the slices it needs from whichever files hold
them, so a run saved by 8 ranks in stage 3 resumes on 2 in stage 2. DeepSpeed's own checkpoints
cannot do that: they drop the average of the weights or refuse another world size.

    fragments-00001-of-00002.safetensors   slices of weight, exp_avg, exp_avg_sq, ema
    fragments-00001-of-00002.json          {"format": 1, "sha256": ..., "shapes": ..., "state": ...}

A folder counts only when every rank's pair is there and every checksum holds. Weights are fp32.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import DataError
from train.lamb import KINDS, Lamb

FORMAT = 1


def write(folder: Path, optimizer: Lamb, state: dict[str, Any]) -> None:
    """Write this rank's fragments; every rank calls it, each into a folder that will be merged.

    Args:
        folder: Exists; this rank's own or shared.
        optimizer: Bound to the engine.
        state: Small JSON facts of the run, equal on every rank: step, cursors, digests.
    """
    layout = optimizer.layout
    assert layout is not None, "bind() must precede a checkpoint"
    rank, size = dist.get_rank(), dist.get_world_size()
    writes = layout.group is not None or rank == 0
    tensors: dict[str, Tensor] = {}
    for partition in layout.partitions if writes else ():
        for kind, flat in optimizer.tensors(partition).items():
            for segment in partition.segments:
                key = f"{segment.name}|{kind}|{segment.start}"
                tensors[key] = partition.view(segment, flat).cpu().clone()
    path = folder / f"fragments-{rank:05d}-of-{size:05d}.safetensors"
    save_file(tensors, path)
    facts = {
        "format": FORMAT,
        "sha256": _sha256(path),
        "shapes": {name: list(shape) for name, shape in layout.shapes.items()},
        "state": state | {"updates": optimizer.step_count, "skipped": optimizer.skipped_steps},
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """Return the facts that `write` was given, after every checksum was found right.

    Raises:
        DataError: A file is missing or is not what was written.
    """
    facts, paths = _open(folder)
    for path in paths:
        _verify(path)
    state: dict[str, Any] = facts["state"]
    return state


def is_whole(folder: Path) -> bool:
    """Return whether every rank's file is there and unchanged."""
    try:
        read_state(folder)
    except DataError:
        return False
    return True


def weights(folder: Path, kind: str) -> dict[str, Tensor]:
    """Return whole fp32 parameters of one kind (see `train.lamb.KINDS`) by name.

    Raises:
        DataError: The folder is not a complete checkpoint.
    """
    facts, paths = _open(folder)
    pieces = _index(paths)
    out = {}
    for name, shape in facts["shapes"].items():
        whole = torch.empty(torch.Size(shape).numel())
        _fill(whole, pieces, folder, name, kind, 0)
        out[name] = whole.view(shape)
    return out


def restore(folder: Path, optimizer: Lamb) -> dict[str, Any]:
    """Read masters, moments and average into a bound optimizer; return the state.

    The model must have been given `weights(folder, "weight")` before DeepSpeed took it, so that
    its low-precision copies agree with the masters.

    Raises:
        DataError: The folder is not a complete checkpoint of this model.
    """
    layout = optimizer.layout
    assert layout is not None, "bind() must precede restore()"
    facts, paths = _open(folder)
    stored = {name: tuple(shape) for name, shape in facts["shapes"].items()}
    if stored != layout.shapes:
        odd = sorted(set(stored.items()) ^ set(layout.shapes.items()))[:4]
        raise DataError(f"{folder}: the checkpoint is of another model; it differs in {odd}")
    pieces = _index(paths)
    for partition in layout.partitions:
        for kind, flat in optimizer.tensors(partition).items():
            for segment in partition.segments:
                target = partition.view(segment, flat)
                _fill(target, pieces, folder, segment.name, kind, segment.start)
    state: dict[str, Any] = facts["state"]
    optimizer.step_count, optimizer.skipped_steps = state["updates"], state["skipped"]
    return state


@dataclass(frozen=True)
class _Piece:
    start: int
    length: int
    path: Path
    key: str


def _open(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """Return the facts and every rank's fragment file."""
    first = sorted(folder.glob("fragments-00000-of-*.json"))
    if len(first) != 1:
        raise DataError(
            f"{folder}: not a checkpoint ({len(first)} first fragments); choose another"
        )
    facts = _facts(first[0])
    if facts.get("format") != FORMAT:
        raise DataError(
            f"{folder}: checkpoint format {facts.get('format')}, this version reads {FORMAT}"
        )
    total = int(first[0].stem.rpartition("-")[2])
    names = [f"fragments-{rank:05d}-of-{total:05d}.safetensors" for rank in range(total)]
    missing = [n for n in names if not (folder / n).with_suffix(".json").is_file()]
    if missing:
        raise DataError(f"{folder}: the checkpoint lacks {missing}; resume from an older one")
    return facts, [folder / name for name in names]


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise DataError(f"{path}: cannot be read ({fault}); resume from an older one") from fault
    return dict(facts)


def _verify(path: Path) -> None:
    expected = _facts(path.with_suffix(".json"))["sha256"]
    if not path.is_file() or _sha256(path) != expected:
        raise DataError(
            f"{path}: damaged (its SHA-256 is not {expected}); resume from an older one"
        )


def _index(paths: list[Path]) -> dict[tuple[str, str], list[_Piece]]:
    pieces: dict[tuple[str, str], list[_Piece]] = {}
    for path in paths:
        for key, length in _lengths(path):
            name, kind, start = key.rsplit("|", 2)
            pieces.setdefault((name, kind), []).append(_Piece(int(start), length, path, key))
    return pieces


def _lengths(path: Path) -> Iterator[tuple[str, int]]:
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                yield key, file.get_slice(key).get_shape()[0]
    except (OSError, SafetensorError) as fault:
        raise DataError(f"{path}: cannot be read ({fault}); resume from an older one") from fault


def _fill(
    target: Tensor,
    pieces: dict[tuple[str, str], list[_Piece]],
    folder: Path,
    name: str,
    kind: str,
    start: int,
) -> None:
    """Fill `target`, which begins at element `start` of a parameter, from whatever holds it."""
    end, filled = start + target.numel(), 0
    for piece in pieces.get((name, kind), ()):
        first, last = max(start, piece.start), min(end, piece.start + piece.length)
        if first < last:
            with safe_open(piece.path, framework="pt") as file:
                part = file.get_slice(piece.key)[first - piece.start : last - piece.start]
            target[first - start : last - start].copy_(part)
            filled += last - first
    if filled != target.numel():
        raise DataError(
            f"{folder}: holds {filled} of {target.numel()} elements of {kind} '{name}'; "
            f"choose another checkpoint (kinds: {', '.join(KINDS)})"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
