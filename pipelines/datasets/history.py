"""The commits of a dataset's tables: when, what, how much, by which run."""

from collections.abc import Sequence
from dataclasses import asdict

from infra.store.dataset import Dataset
from pipelines.datasets import words
from pipelines.datasets.actions import Answer
from pipelines.datasets.tidy import tables


def history(root: str, names: Sequence[str], limit: int) -> Answer:
    """Return the newest commits of the named tables, or of all, newest first."""
    dataset = Dataset.open(root)
    commits = [
        {"table": table} | asdict(commit)
        for table in tables(names)
        for commit in dataset.history(table)
    ]
    commits.sort(key=lambda one: (one["at"], one["table"], one["version"]), reverse=True)
    shown = commits[:limit]
    rows = [
        (
            f"{one['at']:%Y-%m-%d %H:%M:%S}",
            f"{one['table']}@{one['version']}",
            one["operation"].lower(),
            f"{one['num_rows_added']} rows",
            f"+{one['num_files_added']} -{one['num_files_removed']} files",
            words.size(one["num_bytes_added"]),
        )
        for one in shown
    ]
    lines = [f"{dataset.root}: {len(commits)} commits, newest first (UTC)", *words.columns(rows)]
    if len(commits) > limit:
        lines.append(f"  and {len(commits) - limit} earlier; say --limit")
    return Answer("\n".join(lines), {"root": dataset.root, "commits": shown})
