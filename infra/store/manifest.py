"""Manifests: the proof that a task of a stage is finished, and with what.

A task writes its files into an attempt folder of its own; the manifest
`<store>/<stage>/<partition>/<key>.json` is created last and exclusively, so a task that died
leaves no trace that counts, and of two that overlap one counts.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from infra import storage
from infra.errors import DataError

Outputs = Mapping[str, Any]  # plain JSON: what the next stages need to know


@dataclass(frozen=True)
class Manifest:
    """One finished task."""

    stage: str
    partition: str
    key: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Outputs
    folder: str
    seconds: float
    code_version: str
    created_at: str
    files: Mapping[str, int] = field(default_factory=dict)
    """File name below `folder` to its size in bytes."""


def uri(store: str, stage: str, partition: str, key: str) -> str:
    """Return where the manifest of a task lies."""
    return storage.join(store, stage, partition, f"{key}.json")


def commit(store: str, manifest: Manifest) -> bool:
    """Create the manifest; return False where another attempt was first."""
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True, default=dict)
    target = uri(store, manifest.stage, manifest.partition, manifest.key)
    return storage.create_exclusive(target, text.encode())


def load(store: str, stage: str, partition: str, key: str) -> Manifest | None:
    """Return the manifest of a task, or None where it has not finished.

    Raises:
        DataError: The manifest is there and cannot be read.
    """
    target = uri(store, stage, partition, key)
    if not storage.exists(target):
        return None
    return _parse(target)


def newest(store: str, stage: str, partition: str) -> Manifest | None:
    """Return the last manifest that any key of this stage and partition left."""
    folder = storage.join(store, stage, partition)
    found = [
        info
        for info in storage.list_files(folder)
        if info.uri.endswith(".json") and info.uri.count("/") == folder.count("/") + 1
    ]
    return _parse(max(found, key=lambda info: info.modified_ns).uri) if found else None


def _parse(target: str) -> Manifest:
    try:
        return Manifest(**json.loads(storage.read_text(target)))
    except (json.JSONDecodeError, TypeError) as fault:
        raise DataError(
            f"{target}: not a manifest ({fault}); delete it to redo its task"
        ) from fault
