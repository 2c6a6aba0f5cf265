"""The log of a Delta table: what each commit added, and commits made exactly where they belong.

`Writer` adds rows upon the version that it knows and on no other, so that whoever decided by what
the table holds (which keys are new, which number comes next) decided right, or is told to look
again. A commit whose answer was lost on the way is recognized by its `append_id`.
"""

import contextlib
import datetime as dt
import functools
import json
import logging
import os
import random
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import deltalake
import deltalake.exceptions
import pyarrow as pa

from infra import storage
from infra.errors import DataError, ServiceError
from infra.store import actions
from infra.store.schema import SCHEMAS, TableName

log = logging.getLogger(__name__)

ROW_GROUP_ROWS = 1 << 16
"""Rows of a row group at most: what a reader must hold of a data file at once."""
_WRITER = deltalake.WriterProperties(compression="ZSTD", max_row_group_size=ROW_GROUP_ROWS)

_PATIENCE_S = 300.0
_LOG = "_delta_log"
_KEPT = {  # no version may vanish on its own: releases name them
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}


@dataclass(frozen=True)
class Commit:
    """What one commit did to a table."""

    version: int
    at: dt.datetime
    operation: str
    num_rows_added: int
    num_files_added: int
    num_bytes_added: int
    num_files_removed: int
    append_id: str = ""
    """Names the call that made it."""
    new_files: tuple[str, ...] = ()
    """Data files, relative to the table, with rows that no earlier commit had."""


def read_commit(uri: str, version: int) -> Commit | None:
    """Return one commit of the table at `uri`; None where there is none of that number.

    Raises:
        DataError: The commit cannot be understood.
        ServiceError: S3 does not answer.
    """
    found = actions.read(uri, version)
    if found is None:
        return None
    try:
        return _parsed(version, found)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        at = actions.commit_uri(uri, version)
        raise DataError(f"{at}: cannot be understood ({fault!r}); restore this file") from fault


def newer_commits(uri: str, version: int) -> Iterator[Commit]:
    """Yield the commits of the table at `uri` after `version`, oldest first."""
    while found := read_commit(uri, version := version + 1):
        yield found


def open_table(root: str, table: TableName, version: int | None = None) -> deltalake.DeltaTable:
    """Return a table of the dataset at `root`.

    Raises:
        TableNotFoundError: Nothing was ever committed to it.
        DataError: Its log is damaged or gone, or it has no such version.
        ServiceError: S3 does not answer or refuses.
    """
    uri, options = storage.join(root, table), storage.delta_options(root)
    try:
        with faults(uri):
            return deltalake.DeltaTable(uri, version=version, storage_options=options)
    except deltalake.exceptions.TableNotFoundError:
        if not _has_data(uri):
            raise
    except DataError:
        if version is not None:
            _check_version(open_table(root, table), uri, version)
        raise
    with _lost_log(uri), faults(uri):  # it may have been laid just now by somebody else
        return deltalake.DeltaTable(uri, version=version, storage_options=options)


def data_files(uri: str, table: deltalake.DeltaTable) -> list[str]:
    """Return the data files of an open table at `uri`, relative to it."""
    with faults(uri):
        names = pa.table(table.get_add_actions())["path"].to_pylist()
    return [urllib.parse.unquote(str(name)) for name in names]


@contextlib.contextmanager
def faults(uri: str) -> Iterator[None]:
    """Turn the faults of the table library into ours, except that a table is not there."""
    try:
        yield
    except deltalake.exceptions.TableNotFoundError:
        raise
    except FileNotFoundError as fault:
        raise DataError(
            f"{uri}: a data file that the table names is gone ({fault}); restore it, or read a "
            "newer version"
        ) from fault
    except (OSError, pa.ArrowException) as fault:
        raise storage.explain(uri, fault) from fault
    except deltalake.exceptions.DeltaError as fault:
        raise _damaged(uri, fault) from fault


class Writer:
    """One table as a writer sees it: the newest version that it knows, and commits upon it."""

    def __init__(self, root: str, table: TableName) -> None:
        """Open the table for writing, and lay it where it is not there.

        Raises:
            DataError: Its log is damaged, or the disk is full or read-only.
            ServiceError: S3 does not answer or refuses, or would lose commits.
        """
        check_store(root)
        self.uri = storage.join(root, table)
        self._table = _opened_or_laid(root, table)

    @property
    def version(self) -> int:
        """The newest version that this writer knows."""
        return self._table.version()

    def refresh(self) -> None:
        """Learn of what others have committed."""
        with faults(self.uri):
            self._table.update_incremental()

    def files(self) -> list[str]:
        """Return the data files of the version that it knows, relative to the table."""
        return data_files(self.uri, self._table)

    def commit(self, rows: pa.Table) -> bool:
        """Add rows as the version after the known one; return whether that was still free.

        Raises:
            DataError: The disk is full.
            ServiceError: S3 does not answer or refuses; whether the rows are there is not known.
        """
        held = {field.name for field in self._table.schema().fields}
        append_id, before = uuid.uuid4().hex, self.version
        try:
            deltalake.write_deltalake(
                self._table,
                rows,
                mode="append",
                schema_mode=None if held >= set(rows.column_names) else "merge",
                writer_properties=_WRITER,
                commit_properties=deltalake.CommitProperties(
                    custom_metadata={"append_id": append_id}, max_commit_retries=0
                ),
                post_commithook_properties=deltalake.PostCommitHookProperties(
                    cleanup_expired_logs=False
                ),
            )
        except deltalake.exceptions.CommitFailedError:
            return self._landed(append_id, before)
        except (deltalake.exceptions.DeltaError, OSError, pa.ArrowException) as fault:
            if self._landed(append_id, before):
                log.warning("committed, then failed table=%s fault=%s", self.uri, fault)
                return True
            with faults(self.uri):
                raise
        return True

    def _landed(self, append_id: str, version: int) -> bool:
        """Return whether a commit is there although its answer was lost."""
        for found in newer_commits(self.uri, version):
            if found.append_id == append_id:
                self.refresh()
                return True
        return False


def attempts(uri: str) -> Iterator[int]:
    """Yield 1, 2, ... with growing pauses of random length, for writers who were too late.

    Raises:
        ServiceError: Others were faster for minutes.
    """
    end = time.monotonic() + _PATIENCE_S
    attempt = 0
    while time.monotonic() < end:
        attempt += 1
        yield attempt
        time.sleep(random.uniform(0, min(0.01 * 2**attempt, 1.0)))
    raise ServiceError(
        f"{uri}: {attempt} attempts to commit in {_PATIENCE_S:.0f} s, other writers were always "
        "faster; run fewer writers at once, then run again"
    )


def check_store(root: str) -> None:
    """Refuse to write where commits could be lost; a process looks once.

    Raises:
        ServiceError: The store ignores conditional puts, or refuses writes.
    """
    if storage.is_s3(root):
        _check_once(root, os.environ.get("AWS_ENDPOINT_URL", ""), os.getpid())


@functools.lru_cache(maxsize=64)
def _check_once(root: str, endpoint: str, process: int) -> None:
    log.debug("probing conditional puts root=%s endpoint=%s pid=%d", root, endpoint, process)
    storage.check_conditional_put(root)


def _opened_or_laid(root: str, table: TableName) -> deltalake.DeltaTable:
    with contextlib.suppress(deltalake.exceptions.TableNotFoundError):
        return open_table(root, table)
    uri = storage.join(root, table)
    try:
        deltalake.DeltaTable.create(
            uri,
            schema=SCHEMAS[table],
            mode="ignore",
            configuration=_KEPT,
            commit_properties=deltalake.CommitProperties(max_commit_retries=0),  # not laid twice
            storage_options=storage.delta_options(root),
        )
    except (deltalake.exceptions.DeltaError, OSError) as fault:
        log.info("not laid by us table=%s fault=%s", uri, fault)
        try:  # somebody else may have been faster
            return open_table(root, table)
        except deltalake.exceptions.TableNotFoundError:
            raise storage.explain(uri, fault) from fault
    return open_table(root, table)


def _check_version(newest: deltalake.DeltaTable, uri: str, version: int) -> None:
    if version > newest.version():
        raise DataError(
            f"{uri}: version {version} is asked for, the newest is {newest.version()}; check the "
            "version, or whether the table was replaced"
        )


def _has_data(uri: str) -> bool:
    log_folder = storage.join(uri, _LOG) + "/"
    return any(not info.uri.startswith(log_folder) for info in storage.list_files(uri))


@contextlib.contextmanager
def _lost_log(uri: str) -> Iterator[None]:
    try:
        yield
    except deltalake.exceptions.TableNotFoundError as fault:
        raise DataError(
            f"{uri}: holds data files but no log; restore {uri}/{_LOG}, or choose another root "
            "(--output, --name)"
        ) from fault


def _damaged(uri: str, fault: deltalake.exceptions.DeltaError) -> DataError | ServiceError:
    told = " ".join(str(fault).split())
    if storage.is_s3(uri) and "S3" in told:
        return ServiceError(str(storage.explain(uri, fault)))
    if "os error" in told:
        return DataError(str(storage.explain(uri, fault)))
    return DataError(
        f"{uri}: the table cannot be used ({told}); restore {uri}/{_LOG} as it was, or choose "
        "another root (--output, --name)"
    )


def _parsed(version: int, found: Sequence[actions.Action]) -> Commit:
    info: dict[str, Any] = next((a["commitInfo"] for a in found if "commitInfo" in a), {})
    added = [action["add"] for action in found if "add" in action]
    return Commit(
        version=version,
        at=dt.datetime.fromtimestamp(info.get("timestamp", 0) / 1000, dt.UTC),
        operation=str(info.get("operation", "")),
        num_rows_added=sum(_num_rows(add) for add in added),
        num_files_added=len(added),
        num_bytes_added=sum(int(add["size"]) for add in added),
        num_files_removed=sum("remove" in action for action in found),
        append_id=str(info.get("append_id", "")),
        new_files=tuple(
            urllib.parse.unquote(add["path"]) for add in added if add.get("dataChange", True)
        ),
    )


def _num_rows(add: dict[str, Any]) -> int:
    return int(json.loads(add.get("stats") or "{}").get("numRecords", 0))
