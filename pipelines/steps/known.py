"""Which sources the dataset holds, small enough to lie on every node: 16 bytes a source."""

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from infra.store.dataset import Dataset
from infra.store.query import query

_PREFIX = 16  # bytes of a SHA-256 that tell sources apart


class Known:
    """A set of source ids as one sorted array; Ray lends it to tasks without copying."""

    def __init__(self, prefixes: npt.NDArray[np.bytes_]) -> None:
        """Take sorted prefixes of source ids."""
        self._prefixes = prefixes

    def __contains__(self, source_id: str) -> bool:
        """Say whether the set holds a source."""
        wanted = np.array([_prefix(source_id)], f"S{_PREFIX}")
        place = int(np.searchsorted(self._prefixes, wanted)[0])
        return place < len(self._prefixes) and bool(self._prefixes[place] == wanted[0])

    def __len__(self) -> int:
        """Return how many sources it holds."""
        return len(self._prefixes)


def known_sources(dataset: Dataset, transform_id: str) -> Known:
    """Return the sources that are in the dataset whole, cut as they would be cut now."""
    sql = "SELECT DISTINCT source_id FROM sources WHERE status = 'ok' AND transform_id = ?"
    with query(dataset, sql, parameters=[transform_id]) as batches:
        columns = (batch.column(0).to_pylist() for batch in batches)
        return Known(prefixes(map(str, itertools.chain.from_iterable(columns))))


def prefixes(source_ids: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return what is kept of some source ids, sorted."""
    found = np.fromiter(map(_prefix, source_ids), f"S{_PREFIX}")
    found.sort()
    return found


def _prefix(source_id: str) -> bytes:
    return bytes.fromhex(source_id[: 2 * _PREFIX])
