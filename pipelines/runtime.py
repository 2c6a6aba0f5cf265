"""What a stage is handed: its tasks, and the places and services around them."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from infra import storage
from infra.config import Settings
from infra.store import manifest as manifests
from infra.store.manifest import Manifest, Outputs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One partition of one stage under one key."""

    stage: str
    partition: str
    key: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, str]
    """`stage/partition` to the key of that task."""
    fresh: bool
    why: str


@dataclass
class Runtime:
    """What stages may use without it being part of their identity."""

    workspace: str
    settings: Settings
    """The whole tree: for places, services and machine sizes, never for what shapes results."""
    code_version: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the driver found out before planning, such as what is new in the source."""
    started: dict[str, float] = field(default_factory=dict)
    """Stage to the monotonic clock when it began."""
    tasks: Sequence[Task] = ()
    """Every task of the flow, those of an earlier flow of the same command first."""
    _attempts: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> str:
        """Where manifests and attempt folders lie."""
        return storage.join(self.workspace, "flow")

    @property
    def dataset(self) -> str:
        """Root of the run's dataset."""
        return storage.join(self.workspace, "dataset")

    def folder(self, task: Task) -> str:
        """Return the URI of this attempt's own folder."""
        if task.key not in self._attempts:
            name = f"{task.key}-{uuid.uuid4().hex[:8]}"
            self._attempts[task.key] = storage.join(self.store, task.stage, task.partition, name)
        return self._attempts[task.key]

    def keyed_folder(self, task: Task) -> str:
        """Return a folder that all attempts at this key share, for resumable work."""
        return storage.join(self.store, task.stage, task.partition, f"{task.key}-resume")

    def manifest(self, stage: str) -> Manifest:
        """Return the manifest of a finished stage that works on everything at once."""
        (task,) = [task for task in self.tasks if task.stage == stage]
        found = manifests.load(self.store, task.stage, task.partition, task.key)
        assert found is not None, f"{stage} has not finished"
        return found

    def finished(self) -> list[Manifest]:
        """Return the manifest of every task that has finished, in the order of the flow."""
        found = [manifests.load(self.store, t.stage, t.partition, t.key) for t in self.tasks]
        return [manifest for manifest in found if manifest is not None]

    def inputs(self, task: Task, stage: str) -> list[Manifest]:
        """Return the manifests of the task's inputs from one stage, by partition."""
        found = []
        for name, key in sorted(task.inputs.items()):
            owner, _, partition = name.partition("/")
            if owner == stage:
                manifest = manifests.load(self.store, owner, partition, key)
                assert manifest is not None, f"{name} ran before {task.stage}"
                found.append(manifest)
        return found

    def commit(self, task: Task, outputs: Outputs) -> None:
        """Make the task finished; of two attempts the first one counts."""
        folder = self.folder(task)
        sizes = {
            info.uri.removeprefix(folder + "/"): info.size_bytes
            for info in storage.list_files(folder)
        }
        manifest = Manifest(
            stage=task.stage,
            partition=task.partition,
            key=task.key,
            identity=task.identity,
            inputs=task.inputs,
            outputs=outputs,
            folder=folder,
            seconds=round(time.monotonic() - self.started[task.stage], 2),
            code_version=self.code_version,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files=sizes,
        )
        if not manifests.commit(self.store, manifest):
            log.info("%s %s was finished by another run", task.stage, task.partition)
