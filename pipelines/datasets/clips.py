"""What the actions look at: a release, or everything that counts now."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from infra.errors import DataError
from infra.store import release as releases
from infra.store.dataset import Dataset
from infra.store.query import query
from infra.store.release import captioned_sql
from infra.store.schema import SCHEMAS, TableName
from infra.store.selection import Selection


@dataclass(frozen=True)
class View:
    """Table versions and a selection, of a release or of now."""

    dataset: Dataset
    selection: Selection
    versions: Mapping[TableName, int]
    name: str = ""
    """Of the release; empty: now."""
    digest: str = ""


def view(dataset: Dataset, release: str, selection: Selection) -> View:
    """Return the release of that name, or what the selection takes now where it is empty.

    Raises:
        DataError: There is no such release.
    """
    if release:
        found = releases.load(dataset.root, release)
        return View(dataset, found.selection, found.versions, found.name, found.digest)
    versions: dict[TableName, int] = {table: dataset.version(table) for table in SCHEMAS}
    return View(dataset, selection, versions)


@contextlib.contextmanager
def captioned(seen: View, split: str, columns: Sequence[str]) -> Iterator[pa.RecordBatchReader]:
    """Give the captioned clips of a split, in order of clip_id.

    Args:
        seen: Of what.
        split: Which.
        columns: Of the clips table, `split`, and of the chosen caption.
    """
    clips, values = captioned_sql(seen.selection)
    names = ", ".join(f'"{name}"' for name in columns)
    sql = f"SELECT {names} FROM ({clips}) WHERE split = ? ORDER BY clip_id"
    with query(seen.dataset, sql, seen.versions, parameters=[*values, split]) as rows:
        yield rows


def nothing_selected(seen: View) -> DataError:
    """Return the fault of a view without a clip."""
    where = f"release {seen.name}" if seen.name else "the dataset"
    return DataError(
        f"{seen.dataset.root}: {where} has no captioned clip that counts; ingest and caption "
        "first, or choose other --splits or --release"
    )
