"""One run at a time per workspace: the second is refused, a killed holder frees it."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from infra import storage
from infra.errors import ConfigError


@contextlib.contextmanager
def run_lock(workspace: str) -> Iterator[None]:
    """Hold the workspace's lock; the kernel frees it when the process ends, however it ends.

    A workspace in S3 has no such lock: there overlapping runs are fenced by their manifests,
    which are created exclusively.

    Raises:
        ConfigError: Another run of this machine holds it, or the folder cannot be written.
    """
    if storage.is_s3(workspace):
        yield
        return
    with _opened(storage.local_path(workspace) / ".lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise ConfigError(
                f"name: another command works in {workspace}; wait for it or choose another --name"
            ) from fault
        yield


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as fault:
        raise ConfigError(
            f"output: {path.parent} cannot be written ({fault}); choose another --output, or mend "
            "its rights"
        ) from fault
