"""The commits of a dataset's tables: when, what, how much, by which run."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from infra import storage
from infra.store.commits import Commit
from infra.store.dataset import Dataset
from infra.store.schema import TableName
from pipelines.datasets import words
from pipelines.datasets.actions import Answer
from pipelines.datasets.tidy import tables

_THREADS = 8
_RUNS = 5  # run ids that are named for one commit


def history(root: str, names: Sequence[str], limit: int) -> Answer:
    """Return the newest commits of the named tables, or of all, newest first."""
    dataset = Dataset.open(root)
    commits = [(table, one) for table in tables(names) for one in dataset.history(table)]
    commits.sort(key=lambda found: (found[1].at, found[0], found[1].version), reverse=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        shown = list(pool.map(lambda found: _told(dataset, *found), commits[:limit]))
    rows = [
        (
            f"{one['at']:%Y-%m-%d %H:%M:%S}",
            f"{one['table']}@{one['version']}",
            one["operation"].lower(),
            f"{one['num_rows_added']} rows",
            f"+{one['num_files_added']} -{one['num_files_removed']} files",
            words.size(one["num_bytes_added"]),
            " ".join(run_id[:12] for run_id in one["run_ids"]),
        )
        for one in shown
    ]
    lines = [f"{dataset.root}: {len(commits)} commits, newest first (UTC)", *words.columns(rows)]
    if len(commits) > limit:
        lines.append(f"  and {len(commits) - limit} earlier; say --limit")
    return Answer("\n".join(lines), {"root": dataset.root, "commits": shown})


def _told(dataset: Dataset, table: TableName, commit: Commit) -> dict[str, Any]:
    return {
        "table": table,
        "version": commit.version,
        "at": commit.at,
        "operation": commit.operation,
        "num_rows_added": commit.num_rows_added,
        "num_files_added": commit.num_files_added,
        "num_bytes_added": commit.num_bytes_added,
        "num_files_removed": commit.num_files_removed,
        "run_ids": _run_ids(dataset, table, commit),
    }


def _run_ids(dataset: Dataset, table: TableName, commit: Commit) -> list[str]:
    """Return the first runs that a commit's rows are of; none where vacuum took its files."""
    files, below = storage.filesystem(dataset.uri(table))
    found: set[str] = set()
    try:
        for name in commit.new_files:
            rows = pads.dataset(f"{below}/{name}", filesystem=files, format="parquet")
            column = rows.to_table(columns=["run_id"])["run_id"].unique()
            found |= {str(run_id) for run_id in column.to_pylist() if run_id}
    except (OSError, pa.ArrowException):
        return []
    return sorted(found)[:_RUNS]
