"""Commit what the ingest's tasks found: whole sources, nothing twice, no row without bytes.

Of a batch of sources the clips are committed first, then captions, scores and quarantine, and the
rows of the table `sources` last: what stands there as done is done. After a kill the sources of
one batch are looked at again; their clips are found to be there, and of the rest only what is
missing is added. Clips are keyed by source and way of cutting, so two runs that bring in the same
source at once give its clips once.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from infra.store.dataset import Dataset
from infra.store.keys import Keys
from infra.store.query import query
from infra.store.schema import TableName
from pipelines.ingest_config import IngestSettings
from pipelines.steps.rows import (
    Row,
    Sorted,
    caption_rows,
    clips_of,
    held_clips,
    is_refused,
    loose_ends,
    newest_texts,
    owners,
    quarantine_rows,
    score_rows,
    source_row,
)  # fmt: skip

log = logging.getLogger(__name__)

_SOURCE_KEY = ("source_id", "transform_id")
_KEYS: dict[TableName, tuple[str, ...]] = {
    "captions": ("caption_id",),
    "scores": ("clip_id", "scorer", "version"),
    "quarantine": ("source_uri", "source_id", "stage", "reason", "message"),
}
_NUM_TOLD = 20
_GONE = """
select s.* exclude ("at", commit_seq)
from current_sources s semi join gone on gone.uri = s.source_uri
"""


@dataclass(frozen=True)
class Stamp:
    """What is written into the rows of a run."""

    run_id: str
    code_version: str
    source_root: str


class Ledger:
    """Takes rows of the schema `WRITTEN` as tasks finish, and commits them."""

    def __init__(
        self, dataset: Dataset, settings: IngestSettings, stamp: Stamp, num_sources: int
    ) -> None:
        """Prepare to commit into a dataset; `num_sources` is how many rows will come."""
        self._dataset, self._settings, self._stamp = dataset, settings, stamp
        self._keys = Keys(dataset, "clips", _SOURCE_KEY)
        self._loose = loose_ends(dataset)
        self._num_sources = num_sources
        self._waiting: list[Row] = []
        self._num_done = self._num_clips = self._num_refused = self._num_told = 0
        self._num_unclear = 0
        self._started_s = self._due_s = time.monotonic()

    def __enter__(self) -> Self:
        self._keys.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._keys.__exit__(kind, fault, trace)

    def add(self, rows: pa.Table) -> None:
        """Take the rows of a finished task; commit unless the last commit was a moment ago."""
        self._waiting += rows.to_pylist()
        num_rows = len(self._waiting) + sum(len(row["clips"]) for row in self._waiting)
        if num_rows >= self._settings.clips_per_commit or time.monotonic() >= self._due_s:
            self.commit()

    def commit(self) -> None:
        """Commit everything that waits, in an order that makes a kill at any point good again."""
        if not self._waiting:
            return
        started_s = time.monotonic()
        batch, self._waiting = self._waiting, []
        first = owners(batch)
        fresh = self._commit_clips(first)
        self._append("captions", self._captions(batch, first, fresh))
        self._append("scores", score_rows(first, fresh))
        self._append("quarantine", quarantine_rows(batch, first, fresh, self._loose))
        self._dataset.append("sources", [source_row(row) | self._known_by() for row in batch])
        self._count(batch)
        ended_s = time.monotonic()
        self._due_s = ended_s + (ended_s - started_s)  # at most half of the time goes into commits
        self._report()

    def vanish(self, uris: Path) -> None:
        """Note that sources are no longer there; what was known of them stays for their return.

        Args:
            uris: Parquet file with the column `uri`.
        """
        count = 0
        with query(self._dataset, _GONE, relations={"gone": uris}) as batches:
            for batch in batches:
                rows = pa.Table.from_batches([batch])
                for name, value in {"status": "vanished", "run_id": self._stamp.run_id}.items():
                    column = pa.array([value] * len(rows), pa.string())
                    rows = rows.set_column(rows.column_names.index(name), name, column)
                self._dataset.append("sources", rows)
                count += len(rows)
        log.info("ingest vanished=%d", count)

    def _commit_clips(self, first: dict[str, Row]) -> set[str]:
        """Add the clips of the batch; return the sources whose clips were not there before."""
        made = {"run_id": self._stamp.run_id, "code_version": self._stamp.code_version}
        rows = [clip["row"] | made for row in first.values() for clip in row["clips"]]
        if not rows:
            return set()
        added = self._dataset.append_once("clips", rows, self._keys)
        self._num_clips += len(added)
        return {str(one) for one in added["source_id"].unique().to_pylist()}

    def _captions(self, batch: Sequence[Row], first: dict[str, Row], fresh: set[str]) -> Sorted:
        """Return captions for the clips of sources that have one shot to speak of."""
        said = [row for row in batch if row["captions"]]
        elsewhere = {row["source_id"] for row in said} - fresh
        held = {source_id: clips_of(first[source_id]) for source_id in fresh}
        held |= held_clips(self._dataset, elsewhere, self._settings.transform_id)
        clear = [row for row in said if not any(one.shot_index for one in held[row["source_id"]])]
        self._num_unclear += len(said) - len(clear)
        again = [
            one for row in clear if row["why"] == "recaptioned" for one in held[row["source_id"]]
        ]
        return caption_rows(clear, held, fresh, newest_texts(self._dataset, again))

    def _append(self, table: TableName, rows: Sorted) -> None:
        """Add rows that cannot be there yet, and of the others those that are not."""
        stamp = {"run_id": self._stamp.run_id}
        if rows.new:
            self._dataset.append(table, [row | stamp for row in rows.new])
        if rows.old:
            self._dataset.append_new(table, [row | stamp for row in rows.old], _KEYS[table])

    def _known_by(self) -> Row:
        return {
            "source_root": self._stamp.source_root,
            "ingest_id": self._settings.ingest_id,
            "transform_id": self._settings.transform_id,
            "run_id": self._stamp.run_id,
        }

    def _count(self, batch: Sequence[Row]) -> None:
        self._num_done += len(batch)
        self._num_refused += sum(map(is_refused, batch))
        for row in batch:
            for refusal in row["refusals"]:
                self._tell(row["source_uri"], refusal)

    def _tell(self, uri: str, refusal: Row) -> None:
        """Name what is refused, up to a number that can still be read."""
        self._num_told += 1
        if self._num_told <= _NUM_TOLD:
            log.warning(
                "quarantined reason=%s file=%s: %s", refusal["reason"], uri, refusal["message"]
            )
        elif self._num_told == _NUM_TOLD + 1:
            log.warning("more is quarantined; the table `quarantine` of the dataset tells each")

    def _report(self) -> None:
        rate = self._num_done / max(time.monotonic() - self._started_s, 1e-3)
        log.info(
            "ingest files=%d/%d clips=%d refused=%d captions_unclear=%d files/s=%.1f left_s=%.0f",
            self._num_done,
            self._num_sources,
            self._num_clips,
            self._num_refused,
            self._num_unclear,
            rate,
            (self._num_sources - self._num_done) / max(rate, 1e-3),
        )
