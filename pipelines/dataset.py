"""What `snapvideo dataset show|verify|release` does: look at a dataset, check it, pin it.

Each function returns the text that the command prints.
"""

import collections
import hashlib
import logging
import time
from typing import Any

import pyarrow as pa

from infra import storage
from infra.errors import ConfigError, DataError
from infra.store import release as releases
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.schema import SCHEMAS

log = logging.getLogger(__name__)

_MEDIA = ["clip_id", "media_file", "media_row", "media_offset", "media_length"]
_CHECKED = [*_MEDIA, "media_crc32c", "media_sha256"]
_REPORT_S = 5.0
_NAMED = 5  # faults that a message lists


def show(root: str, *operands: str) -> str:
    """Return what lies in a dataset: tables with their versions, counts, releases."""
    _refuse(operands)
    dataset = Dataset.open(root)
    lines = [f"dataset {dataset.root}"]
    lines += [
        f"  {table:<11} version {dataset.version(table):>4}  "
        f"rows {dataset.read(table, columns=_thin(table)).num_rows}"
        for table in SCHEMAS
    ]
    clips = dataset.read("clips", columns=["kind", "encode_mode", "duration_s", "media_length"])
    hours = _total(clips, "duration_s") / 3600
    lines += [
        f"clips       {_tally(clips, 'kind')}; {_tally(clips, 'encode_mode')}; "
        f"{hours:.2f} h, {_total(clips, 'media_length') / 2**20:.1f} MiB",
        f"captions    {_tally(dataset.read('captions', columns=['origin']), 'origin')}",
        f"quarantine  {_tally(dataset.read('quarantine', columns=['reason']), 'reason')}",
        f"releases    {', '.join(releases.names(root)) or 'none'}",
    ]
    return "\n".join(lines)


def verify(root: str, *operands: str) -> str:
    """Read every clip and check its bytes against its row, and every caption against its clip.

    Raises:
        DataError: Bytes or clips are missing or changed; the message names the first of them.
    """
    _refuse(operands)
    dataset = Dataset.open(root)
    clips = dataset.read("clips", columns=_CHECKED).sort_by(
        [("media_file", "ascending"), ("media_offset", "ascending")]
    )
    faults = _media_faults(dataset.root, clips)
    known = set(clips["clip_id"].to_pylist())
    captioned = dataset.read("captions", columns=["clip_id"])["clip_id"].unique().to_pylist()
    faults += [
        f"caption of unknown clip {clip_id}" for clip_id in captioned if clip_id not in known
    ]
    doubled = len(clips) - len(known)
    faults += [f"{doubled} clips stand in the table twice"] if doubled else []
    if faults:
        more = f"\n  and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise DataError(
            f"{dataset.root}: {len(faults)} faults; restore the files, or ingest anew elsewhere\n  "
            + "\n  ".join(faults[:_NAMED])
            + more
        )
    orphans = _orphans(dataset, clips)
    size_mib = _total(clips, "media_length") / 2**20
    return (
        f"{dataset.root}: {len(clips)} clips, {size_mib:.1f} MiB read and right; "
        f"{orphans} media shards that no clip refers to"
    )


def release(root: str, name: str = "", *operands: str) -> str:
    """Pin all captioned clips under a name and return its digest.

    Raises:
        ConfigError: No name is given.
        DataError: The name is taken by other content, or there is nothing to pin.
    """
    _refuse(operands)
    if not name:
        raise ConfigError("dataset release: a name is needed, such as `dataset release 2026-11`")
    made = releases.create(Dataset.open(root), name, releases.Selection())
    return f"release {made.name}: {made.num_clips} clips, digest {made.digest}"


def _media_faults(root: str, clips: pa.Table) -> list[str]:
    faults, started_s, reported_s = [], time.monotonic(), time.monotonic()
    for index, row in enumerate(clips.to_pylist()):
        try:
            data = read_media(root, row)
        except DataError as fault:
            faults.append(str(fault))
            continue
        if hashlib.sha256(data).hexdigest() != row["media_sha256"]:
            faults.append(f"clip {row['clip_id']}: SHA-256 differs")
        if time.monotonic() - reported_s > _REPORT_S:
            reported_s = time.monotonic()
            rate = (index + 1) / (reported_s - started_s)
            left_s = (len(clips) - index) / rate
            log.info("verify clips=%d/%d clips/s=%.1f left_s=%.0f", index, len(clips), rate, left_s)
    return faults


def _orphans(dataset: Dataset, clips: pa.Table) -> int:
    """Return how many shards no clip refers to: what an interrupted ingest leaves."""
    used = {dataset.uri(str(name)) for name in clips["media_file"].unique().to_pylist()}
    return sum(info.uri not in used for info in storage.list_files(dataset.uri("media")))


def _tally(rows: pa.Table, column: str) -> str:
    counts: dict[Any, int] = collections.Counter(rows[column].to_pylist())
    return ", ".join(f"{name} {num}" for name, num in sorted(counts.items())) or "none"


def _total(rows: pa.Table, column: str) -> float:
    return float(sum(value or 0 for value in rows[column].to_pylist()))


def _thin(table: Any) -> list[str]:  # noqa: ANN401 - a TableName, which a loop variable loses
    return [SCHEMAS[table].names[0]]


def _refuse(operands: tuple[str, ...]) -> None:
    if operands:
        raise ConfigError(f"dataset: unexpected words {list(operands)}")
