"""Lay a plan out as units of work that any node of a cluster can read.

A unit is what one task does: some sources whose clips share a media shard. Units lie below the
dataset's root while a run lasts, as Arrow files of which a task reads its own unit alone; they go
when the run ends, and `snapvideo dataset vacuum` removes what a killed run left.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.store.dataset import Dataset
from infra.store.work import Folder, made
from pipelines.sources.entry import from_rows
from pipelines.steps.source import Planned

_PER_FILE = 512  # units whose places a task reads to find its own


@dataclass(frozen=True)
class Units:
    """Where the units of a run lie; small to pickle."""

    folder: Folder
    num_units: int

    def read(self, index: int) -> list[Planned]:
        """Return the sources of one unit.

        Raises:
            DataError: It is gone.
            ServiceError: S3 does not answer, or refuses.
        """
        uri = storage.join(self.folder.uri, _name(index // _PER_FILE))
        files, path = storage.filesystem(uri)
        try:
            with files.open_input_file(path) as file:
                rows = pa.ipc.open_file(file).get_batch(index % _PER_FILE)
        except (OSError, pa.ArrowException) as fault:
            raise storage.explain(uri, fault) from fault
        entries = from_rows(rows)
        more = zip(*(rows[name].to_pylist() for name in _MORE), strict=True)
        return [Planned(entry, *values) for entry, values in zip(entries, more, strict=True)]


_MORE = ("known_id", "why", "attempts")  # of a plan, in the order of `Planned`


@contextlib.contextmanager
def laid_out(dataset: Dataset, plan: Path, files_per_task: int) -> Iterator[Units]:
    """Give the units of a plan; they lie in the dataset's `work` folder inside the block.

    Args:
        dataset: Where to.
        plan: Parquet file of the columns of `Planned`.
        files_per_task: Sources of a unit.
    """
    with made(dataset) as folder:
        yield _laid(plan, folder, files_per_task)


def _laid(plan: Path, folder: Folder, files_per_task: int) -> Units:
    num_units = 0
    with tempfile.TemporaryDirectory() as scratch, pq.ParquetFile(plan) as rows:
        batches = rows.iter_batches(batch_size=files_per_task)
        for number in itertools.count():
            units = itertools.islice(batches, _PER_FILE)
            first = next(units, None)
            if first is None:
                break
            path = Path(scratch, _name(number))
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as out:
                for unit in itertools.chain([first], units):
                    out.write_batch(unit)
                    num_units += 1
            storage.upload(path, storage.join(folder.uri, path.name), move=True)
    return Units(folder, num_units)


def _name(number: int) -> str:
    return f"{number:06d}.arrow"
