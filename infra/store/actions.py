"""The log of a Delta table as its files have it: a commit is a list of JSON actions.

The table library compacts too, but two of its compactions at once both succeed and leave every row
twice (deltalake 1.6.6); so what rewrites a table commits through here, where it sees what others
did before.
"""

import json
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra import storage
from infra.errors import DataError, MissingError, ServiceError

Action = dict[str, Any]

_TRIES = 1000  # commits of others that a rewrite can give way to


@dataclass(frozen=True)
class Rewrite:
    """Data files that take the place of others, with the same rows."""

    removed: Sequence[Action]
    """`add` actions of the files that go."""
    added: Sequence[Action]
    """`add` actions of the files that come."""
    operation: str


def commit_uri(table_uri: str, version: int) -> str:
    """Return where a commit of that number lies."""
    return storage.join(table_uri, "_delta_log", f"{version:020d}.json")


def read(table_uri: str, version: int) -> list[Action] | None:
    """Return the actions of a commit; None where there is none of that number.

    Raises:
        DataError: It cannot be understood.
        ServiceError: S3 does not answer.
    """
    uri = commit_uri(table_uri, version)
    try:
        text = storage.read_text(uri)
    except MissingError:
        return None
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as fault:
        raise DataError(f"{uri}: cannot be understood ({fault}); restore this file") from fault


def since(table_uri: str, version: int) -> Iterator[tuple[int, list[Action]]]:
    """Yield the commits after a version with their numbers, oldest first."""
    while (found := read(table_uri, version := version + 1)) is not None:
        yield version, found


def names(actions: Sequence[Action], kind: str) -> set[str]:
    """Return the data files that actions add or remove, relative to the table."""
    return {urllib.parse.unquote(str(one[kind]["path"])) for one in actions if kind in one}


def commit(table_uri: str, version: int, rewrite: Rewrite) -> int | None:
    """Commit a rewrite of what `version` holds, after whatever came since.

    A commit whose answer was lost on the way is recognized by the files that it adds.

    Returns:
        The version that it made; None where another rewrite took one of its files before.

    Raises:
        ServiceError: S3 does not answer, or others commit all the time.
    """
    going = names([{"add": one} for one in rewrite.removed], "add")
    coming = names([{"add": one} for one in rewrite.added], "add")
    text = "\n".join(json.dumps(action) for action in _actions(version, rewrite))
    for _ in range(_TRIES):
        for later, actions in since(table_uri, version):
            if coming & names(actions, "add"):
                return later
            if going & names(actions, "remove"):
                return None
            version = later
        if storage.create_exclusive(commit_uri(table_uri, version + 1), text.encode()):
            return version + 1
    raise ServiceError(f"{table_uri}: others commit all the time; run this again later")


def _actions(version: int, rewrite: Rewrite) -> Iterator[Action]:
    now_ms = int(time.time() * 1000)
    yield {
        "commitInfo": {
            "timestamp": now_ms,
            "operation": rewrite.operation,
            "operationParameters": {},
            "readVersion": version,
            "isBlindAppend": False,
            "engineInfo": "snapvideo",
        }
    }
    for one in rewrite.removed:
        yield {
            "remove": {
                "path": one["path"],
                "deletionTimestamp": now_ms,
                "dataChange": False,
                "extendedFileMetadata": True,
                "partitionValues": {},
                "size": one["size"],
            }
        }
    for one in rewrite.added:
        yield {
            "add": {"partitionValues": {}, "modificationTime": now_ms, "dataChange": False} | one
        }
