"""Commit what the ingest's tasks found: whole sources, few commits, nothing twice.

A source's clips enter the clips table in one commit, so a source that is there is there whole and
is skipped by the next run. What was refused of it is in quarantine before, since nobody looks at it
again. Captions follow at the end, added only where missing.
"""

import collections
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.store.dataset import Dataset
from pipelines.ingest_config import IngestSettings

log = logging.getLogger(__name__)

_QUARANTINE_KEY = ("source_uri", "source_id", "stage", "reason", "message")

_NUM_TOLD = 20


@dataclass(frozen=True)
class IngestCounts:
    """What a partition holds after its ingest; the same for an interrupted and a straight run."""

    num_files: int
    num_sources: int
    """Distinct contents that gave clips."""
    num_clips: int
    num_images: int
    num_videos: int
    num_captions: int
    """Human captions of these clips."""
    num_duplicates: int
    """Files whose content another file of the partition has too."""
    num_refused: int
    """Files that gave no clip."""
    num_quarantined: int
    """Rows of quarantine: refused files, captions and shots."""
    by_reason: dict[str, int]
    source_ids: list[str]
    transform_id: str


class Ledger:
    """Collects rows of the schema `WRITTEN` in file order and commits them."""

    def __init__(
        self, dataset: Dataset, settings: IngestSettings, stamp: dict[str, str], num_files: int
    ) -> None:
        """Read which sources the dataset holds; `stamp` is the run's id and code version."""
        self.known = frozenset(_known(dataset, settings.transform_id))
        self._dataset, self._settings, self._stamp = dataset, settings, stamp
        self._num_files = num_files
        self._owners: dict[str, str] = {}  # source id -> the first file that has it
        self._captions: dict[str, list[str]] = collections.defaultdict(list)
        self._quarantine: list[dict[str, Any]] = []
        self._whole: list[dict[str, Any]] = []  # clips of sources that are complete
        self._part: list[dict[str, Any]] = []  # clips of the source that is being read
        self._files: set[str] = set()
        self._num_duplicates = self._num_refused = self._num_committed = 0
        self._num_told = 0
        self._started_s = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Take rows of a finished block and commit when enough are there."""
        for row in rows.to_pylist():
            if row["source_uri"] not in self._files:
                self._files.add(row["source_uri"])
                self._note_file(row)
            if row["clip"] and self._owners[row["source_id"]] == row["source_uri"]:
                self._part.append(row["clip"])
                if len(self._part) == row["num_clips"]:
                    self._whole += self._part
                    self._part = []
        if len(self._whole) >= self._settings.clips_per_commit:
            self._commit_clips()
        self._report()

    def finish(self) -> IngestCounts:
        """Commit the rest, then captions; return what the partition holds."""
        assert not self._part, "a source's clips are incomplete"
        self._commit_clips()
        self._commit_quarantine()
        clips = self._clips()
        num_captions = self._commit_captions(clips)
        return self._counts(clips, num_captions)

    def _note_file(self, row: dict[str, Any]) -> None:
        source_id = row["source_id"]
        if row["num_clips"] or row["known"]:
            owner = self._owners.setdefault(source_id, row["source_uri"])
            self._num_duplicates += owner != row["source_uri"]
            if row["caption"]:
                self._captions[source_id].append(row["caption"])
        else:
            self._num_refused += 1
        for refusal in row["refusals"]:
            self._tell(row["source_uri"], refusal)
        self._quarantine += [
            refusal
            | {"source_uri": row["source_uri"], "source_id": source_id, "attempts": 1}
            | {"run_id": self._stamp["run_id"]}
            for refusal in row["refusals"]
        ]

    def _tell(self, uri: str, refusal: dict[str, Any]) -> None:
        """Name what is refused, up to a number that can still be read."""
        self._num_told += 1
        if self._num_told <= _NUM_TOLD:
            log.warning(
                "quarantined reason=%s file=%s: %s", refusal["reason"], uri, refusal["message"]
            )
        elif self._num_told == _NUM_TOLD + 1:
            log.warning("more is quarantined; the table `quarantine` of the dataset tells each")

    def _commit_quarantine(self) -> None:
        if self._quarantine:
            self._dataset.append_new("quarantine", self._quarantine, _QUARANTINE_KEY)

    def _commit_clips(self) -> None:
        if self._whole:
            self._commit_quarantine()
            self._dataset.append("clips", [row | self._stamp for row in self._whole])
            self._num_committed += len(self._whole)
            self._whole = []

    def _clips(self) -> pa.Table:
        """Return the clips of this partition's sources, whichever run committed them."""
        columns = ["clip_id", "source_id", "kind", "shot_index", "media_sha256"]
        where = pc.field("transform_id") == self._settings.transform_id
        rows = self._dataset.read("clips", columns=columns, where=where)
        mine = pa.array(list(self._owners), pa.string())
        return rows.filter(pc.is_in(rows["source_id"], value_set=mine)).sort_by("clip_id")

    def _commit_captions(self, clips: pa.Table) -> int:
        """Give a file's caption to its clips, unless it has several shots to speak of."""
        shots: dict[str, int] = collections.Counter()
        for row in clips.to_pylist():
            shots[row["source_id"]] = max(shots[row["source_id"]], row["shot_index"] + 1)
        unclear = [source for source in self._captions if shots[source] > 1]
        if unclear:
            log.warning("captions not used, their files have several shots files=%d", len(unclear))
        rows = [
            _caption_row(clip, text) | {"run_id": self._stamp["run_id"]}
            for clip in clips.to_pylist()
            if shots[clip["source_id"]] == 1
            for text in self._captions.get(clip["source_id"], [])
        ]
        if rows:
            self._dataset.append_new("captions", rows, ("caption_id",))
        return len({row["caption_id"] for row in rows})

    def _counts(self, clips: pa.Table, num_captions: int) -> IngestCounts:
        refusals = self._quarantine + self._earlier_refusals()
        reasons = {(r["source_uri"], r["stage"], r["message"]): r["reason"] for r in refusals}
        kinds = collections.Counter(clips["kind"].to_pylist())
        return IngestCounts(
            num_files=self._num_files,
            num_sources=len(set(clips["source_id"].to_pylist())),
            num_clips=len(clips),
            num_images=kinds["image"],
            num_videos=kinds["video"],
            num_captions=num_captions,
            num_duplicates=self._num_duplicates,
            num_refused=self._num_refused,
            num_quarantined=len(reasons),
            by_reason=dict(sorted(collections.Counter(reasons.values()).items())),
            source_ids=sorted(self._owners),
            transform_id=self._settings.transform_id,
        )

    def _earlier_refusals(self) -> list[dict[str, Any]]:
        """Return refused shots of files that were not decoded again."""
        mine = self.known.intersection(self._owners)
        if not mine:
            return []
        rows = self._dataset.read("quarantine", where=pc.field("stage") == "cut").to_pylist()
        return [row for row in rows if self._owners.get(row["source_id"]) == row["source_uri"]]

    def _report(self) -> None:
        seconds = time.monotonic() - self._started_s
        rate = len(self._files) / max(seconds, 1e-3)
        log.info(
            "ingest files=%d/%d clips=%d refused=%d files/s=%.1f left_s=%.0f",
            len(self._files),
            self._num_files,
            self._num_committed + len(self._whole),
            self._num_refused,
            rate,
            (self._num_files - len(self._files)) / max(rate, 1e-3),
        )


def _known(dataset: Dataset, transform_id: str) -> list[str]:
    """Return the sources whose clips are committed, cut as they would be cut now."""
    where = pc.field("transform_id") == transform_id
    found = dataset.read("clips", columns=["source_id"], where=where)["source_id"]
    return [str(source_id) for source_id in found.unique().to_pylist()]


def _caption_row(clip: dict[str, Any], text: str) -> dict[str, Any]:
    words = f"{clip['clip_id']} human {text}"
    return {
        "clip_id": clip["clip_id"],
        "caption_id": hashlib.sha256(words.encode()).hexdigest()[:32],
        "text": text,
        "origin": "human",
        "status": "ok",
        "media_sha256": clip["media_sha256"],
    }
