"""Vacuum and compact: what `infra.store` does, told in files and bytes."""

import collections
import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import cast, get_args

from infra.errors import ConfigError
from infra.store.compact import compact as compact_table
from infra.store.dataset import Dataset
from infra.store.schema import SCHEMAS, TableName
from infra.store.vacuum import Garbage, Kind, find, remove
from pipelines.datasets import words
from pipelines.datasets.actions import Answer

log = logging.getLogger(__name__)

_GROUP = 1000
_THREADS = 16
_NAMED = 20
_ABOUT: dict[Kind, str] = {
    "media": "media shards that no clip refers to",
    "table": "data files that no readable version needs",
    "temporary": "temporary files of writers that were killed",
    "work": "files of scratch folders",
    "upload": "uploads that were begun and not ended, of unknown size",
}


def vacuum(root: str, older_than_h: float, apply: bool) -> Answer:
    """Say what nothing refers to, and delete it where `apply` is set."""
    dataset = Dataset.open(root)
    nums: dict[str, int] = collections.Counter()
    sizes: dict[str, int] = collections.Counter()
    named: list[str] = []
    for group in _groups(find(dataset, older_than_h)):
        if apply:
            _delete(group)
        for one in group:
            nums[one.kind] += 1
            sizes[one.kind] += one.size_bytes
        named += [one.uri for one in group[: _NAMED - len(named)]]
    total = sum(sizes.values())
    verb = "deleted" if apply else "would delete"
    lines = [
        f"{dataset.root}: {verb} {sum(nums.values())} files, {words.size(total)}, "
        f"untouched for {older_than_h:g} h"
    ]
    lines += words.columns(
        [(nums[k], words.size(sizes[k]), text) for k, text in _ABOUT.items() if nums[k]]
    )
    lines += [f"    {words.clean(uri)}" for uri in named]
    if nums and not apply:
        lines.append("nothing is deleted yet; say --apply")
    tree = {
        "root": dataset.root,
        "applied": apply,
        "older_than_h": older_than_h,
        "num_files": dict(nums),
        "size_bytes": dict(sizes),
        "first": named,
    }
    return Answer("\n".join(lines), tree)


def compact(root: str, names: Sequence[str], target_mib: int) -> Answer:
    """Join small data files of the named tables, or of all."""
    dataset = Dataset.open(root)
    found = []
    for table in tables(names):
        found.append(compact_table(dataset, table, target_mib))
        if found[-1].num_files_removed:
            log.info("compacted table=%s files=%d", table, found[-1].num_files)
    rows = [
        (one.table, f"{one.num_files_removed} files joined to {one.num_files_added}", one.num_files)
        for one in found
        if one.num_files
    ]
    lines = [f"{dataset.root}: table, joined, data files now", *words.columns(rows)]
    lines.append("earlier versions keep their files until `snapvideo dataset vacuum --apply`")
    return Answer(
        "\n".join(lines), {"root": dataset.root, "tables": [asdict(one) for one in found]}
    )


def tables(names: Sequence[str]) -> tuple[TableName, ...]:
    """Return the tables of those names; all where none is given.

    Raises:
        ConfigError: There is no such table.
    """
    strange = sorted(set(names) - set(SCHEMAS))
    if strange:
        raise ConfigError(f"no table {strange}; there are: {', '.join(get_args(TableName))}")
    return cast("tuple[TableName, ...]", tuple(names)) or get_args(TableName)


def _delete(group: Sequence[Garbage]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(remove, group))
    log.info("vacuum deleted=%d last=%s", len(group), group[-1].uri)


def _groups(found: Iterator[Garbage]) -> Iterator[list[Garbage]]:
    while group := list(itertools.islice(found, _GROUP)):
        yield group
