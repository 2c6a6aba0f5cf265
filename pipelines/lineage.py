"""Stages addressed by their inputs: plan what is stale, say why, run it.

A task's key is a hash of its stage, partition, version, declared settings and the keys of its
inputs, so every key is known before anything runs, and a task with a manifest under its key is
finished. Resume is running the same command again. No Ray here: stages bring their own.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from infra.config import Settings
from infra.store import manifest as manifests
from pipelines.runtime import Runtime, Task

log = logging.getLogger(__name__)

WHOLE = "all"
_NUM_TOLD = 20  # partitions that a line names

ConfigT = TypeVar("ConfigT", bound=Settings)
Json = Any  # plain data: numbers, strings, lists, mappings


@dataclass(frozen=True)
class Stage(Generic[ConfigT]):
    """One stage of the flow: what it runs and what its result depends on."""

    name: str
    run: Callable[[Sequence[Task], ConfigT, Runtime], None]
    after: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    """Settings, as dotted paths, that the result depends on; it sees no others."""
    neutral: tuple[str, ...] = ()
    """Settings below `identity` that do not change the result, such as worker counts."""
    version: int = 1
    """Raised by hand when the code changes what comes out."""
    partitioned: bool = False


def plan(
    stages: Sequence[Stage[ConfigT]],
    config: ConfigT,
    partitions: Mapping[str, str],
    store: str,
) -> list[Task]:
    """Return every task of the flow in order, fresh or stale and why.

    Args:
        stages: The flow; each stage stands after those it names in `after`.
        config: The resolved settings.
        partitions: Partition name to a digest of its source files.
        store: Where manifests lie.
    """
    tasks: list[Task] = []
    whole = {stage.name for stage in stages if not stage.partitioned}
    for stage in stages:
        names = list(partitions) if stage.partitioned else [WHOLE]
        for name in sorted(names):
            read = [t for t in tasks if t.stage in stage.after]
            if stage.partitioned:  # a folder may have any name, also that of `WHOLE`
                read = [t for t in read if t.partition == name or t.stage in whole]
            tasks.append(_task(stage, name, config, partitions, read, store))
    return tasks


def run(
    stages: Sequence[Stage[ConfigT]], tasks: Sequence[Task], config: ConfigT, runtime: Runtime
) -> None:
    """Run every stale task, stage by stage.

    Raises:
        SnapvideoError: A stage failed for a reason that the user can mend.
    """
    for number, stage in enumerate(stages, 1):
        mine = [task for task in tasks if task.stage == stage.name]
        stale = [task for task in mine if not task.fresh]
        label = f"[{number}/{len(stages)}] {stage.name}"
        if not stale:
            log.info("%s: fresh (%d of %d)", label, len(mine), len(mine))
            continue
        told = [f"{task.partition} {task.why}" for task in stale[:_NUM_TOLD]]
        more = f"; and {len(stale) - _NUM_TOLD} more" if len(stale) > _NUM_TOLD else ""
        log.info("%s: %s%s", label, "; ".join(told), more)
        started = runtime.started[stage.name] = time.monotonic()
        stage.run(stale, masked(config, stage), runtime)
        _check_committed(stale, runtime)
        log.info("%s: done in %.1f s", label, time.monotonic() - started)


def masked(config: ConfigT, stage: Stage[ConfigT]) -> ConfigT:
    """Return `config` with every setting the stage does not declare at its default."""
    tree = type(config)().model_dump()
    for path in stage.identity:
        _put(tree, path, _get(config.model_dump(), path))
    return type(config).model_validate(tree)


def digest(value: object) -> str:
    """Return a hash of plain JSON data, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _task(
    stage: Stage[ConfigT],
    partition: str,
    config: ConfigT,
    partitions: Mapping[str, str],
    read: Sequence[Task],
    store: str,
) -> Task:
    identity = _identity(stage, config)
    inputs = {f"{t.stage}/{t.partition}": t.key for t in read}
    if stage.partitioned:
        inputs["source"] = partitions[partition]
    key = digest([stage.name, partition, stage.version, identity, inputs])
    fresh = manifests.load(store, stage.name, partition, key) is not None
    identity = identity | {"version": stage.version}
    why = "fresh" if fresh else _why(stage, partition, identity, inputs, store)
    return Task(stage.name, partition, key, identity, inputs, fresh, why)


def _identity(stage: Stage[ConfigT], config: ConfigT) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    flat = {key: value for path in stage.identity for key, value in _flat(path, _get(tree, path))}
    below = tuple(f"{path}." for path in stage.neutral)
    return {k: v for k, v in flat.items() if not f"{k}.".startswith(below)}


def _why(
    stage: Stage[ConfigT],
    partition: str,
    identity: Mapping[str, Any],
    inputs: Mapping[str, str],
    store: str,
) -> str:
    """Say which part of the key changed, old -> new."""
    old = manifests.newest(store, stage.name, partition)
    if old is None:
        return "never done"
    changed = [
        f"{key} {old.identity.get(key)!r} -> {identity.get(key)!r}"
        for key in sorted({*old.identity, *identity})
        if old.identity.get(key) != identity.get(key)
    ]
    names = sorted({*old.inputs, *inputs})
    moved = [name for name in names if old.inputs.get(name) != inputs.get(name)]
    parts = changed[:3] + ([f"new input from {', '.join(moved[:3])}"] if moved else [])
    return "stale: " + ("; ".join(parts) or "unknown")


def _check_committed(tasks: Sequence[Task], runtime: Runtime) -> None:
    for task in tasks:
        done = manifests.load(runtime.store, task.stage, task.partition, task.key)
        assert done is not None, f"stage {task.stage} returned without finishing {task.partition}"


def _flat(path: str, value: Json) -> list[tuple[str, Json]]:
    if isinstance(value, dict):
        return [pair for key, below in value.items() for pair in _flat(f"{path}.{key}", below)]
    return [(path, value)]


def _get(tree: Mapping[str, Json], path: str) -> Json:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _put(tree: dict[str, Json], path: str, value: Json) -> None:
    *parents, last = path.split(".")
    for part in parents:
        tree = tree[part]
    tree[last] = value
