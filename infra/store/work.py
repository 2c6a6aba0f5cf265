"""Scratch folders below a dataset's root: what the tasks of one run read, on any node.

A folder goes when its run ends. `infra.store.vacuum` removes what a killed run left; that a run
goes on, however long ago its folder was made, it knows from a file that is written again and again.

    with laid(dataset, "SELECT clip_id FROM clips") as (folder, num_rows):
        for block in ...:  # reads folder.rows
            folder.keep()
"""

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.store.dataset import Dataset
from infra.store.query import query

ALIVE = ".alive"
"""File that a run writes again and again; its name sorts before all others of its folder."""


@dataclass(frozen=True)
class Folder:
    """A scratch folder of a run; small to pickle."""

    uri: str

    @property
    def rows(self) -> str:
        """Where the rows lie that `laid` wrote."""
        return storage.join(self.uri, "rows")

    def keep(self) -> None:
        """Tell `dataset vacuum` that the run goes on."""
        storage.write_bytes(storage.join(self.uri, ALIVE), b"")


@contextlib.contextmanager
def made(dataset: Dataset) -> Iterator[Folder]:
    """Give a folder of one's own that goes at the end of the block."""
    folder = Folder(dataset.uri("work", uuid.uuid4().hex))
    try:
        yield folder
    finally:
        storage.delete(folder.uri)


@contextlib.contextmanager
def laid(
    dataset: Dataset, sql: str, parameters: Sequence[object] = ()
) -> Iterator[tuple[Folder, int]]:
    """Give a folder with the rows of a query as Parquet files, and how many they are."""
    with made(dataset) as folder:
        num_rows = 0
        with (
            tempfile.TemporaryDirectory(prefix="snapvideo-work-") as scratch,
            query(dataset, sql, parameters=parameters) as rows,
        ):
            for number, batch in enumerate(rows):
                if not batch.num_rows:
                    continue
                path = Path(scratch, f"{number:06d}.parquet")
                pq.write_table(pa.Table.from_batches([batch]), path)
                num_rows += batch.num_rows
                storage.upload(path, storage.join(folder.rows, path.name), move=True)
        yield folder, num_rows
