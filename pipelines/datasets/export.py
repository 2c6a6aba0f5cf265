"""Write clips with their captions for other programs: WebDataset, Parquet, Hugging Face.

Clips are laid out in order of clip_id into shards of a bounded size, so the same release gives the
same shards. A shard appears whole or not at all; a call that was interrupted goes on where it was,
and `export.json` in the folder says of what the export is made.

    snapvideo dataset export --release 2026-11 --format huggingface --out hub/
    datasets.load_dataset("hub")
"""

import collections
import functools
import hashlib
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra import storage
from infra.errors import ConfigError, DataError
from infra.store.choose import selected_sql
from infra.store.dataset import Dataset
from infra.store.media import read_media
from infra.store.query import query
from infra.store.release import captioned_sql
from infra.store.selection import Selection
from pipelines.datasets import words
from pipelines.datasets.actions import Answer
from pipelines.datasets.ahead import worked
from pipelines.datasets.card import card
from pipelines.datasets.clips import View, captioned, nothing_selected, view
from pipelines.datasets.config import DatasetSettings
from pipelines.datasets.packs import Pack, ParquetPack, TarPack

log = logging.getLogger(__name__)

_COLUMNS = (
    *("clip_id", "kind", "source_id", "source_uri", "codec", "container", "encode_mode"),
    *("width", "height", "num_frames", "duration_s", "fps_num", "fps_den", "shot_index"),
    *("src_start_pts", "src_end_pts", "src_tb_num", "src_tb_den", "media_sha256"),
    *("media_file", "media_row", "media_offset", "media_length", "media_crc32c"),
    *("split", "text", "origin", "recipe_id"),
)
_MAX_ROWS = 20_000  # clips of a shard, whose facts are held while it is written
_MIB = 1 << 20
_ENDINGS = {"webdataset": "tar", "parquet": "parquet", "huggingface": "parquet"}
_PLAN = "export.json"


@dataclass(frozen=True)
class Shard:
    """A file of an export."""

    name: str
    rows: list[dict[str, Any]]


def export(root: str, settings: DatasetSettings, selection: Selection) -> Answer:
    """Write what a release (or the selection) holds; keep the shards that lie there already.

    Raises:
        ConfigError: No folder is named.
        DataError: The folder holds another export, nothing is selected, or a clip's bytes are
            not what was written.
    """
    if not settings.out:
        raise ConfigError("dataset export: where to? say --out FOLDER or --out s3://bucket/prefix")
    seen = view(Dataset.open(root), settings.release, selection)
    out = storage.absolute(settings.out).rstrip("/")
    media = _media_columns(seen, settings.splits)
    if not media:
        raise nothing_selected(seen)
    held = _held(out)
    _claim(out, seen, settings, held)
    nums: collections.Counter[str] = collections.Counter()
    shards: list[dict[str, Any]] = []
    started_s = time.monotonic()
    for split in settings.splits:
        with closing(_rows(seen, split)) as rows:
            for shard in _shards(rows, split, settings):
                if shard.name not in held:
                    _write(shard, seen, settings, media, out)
                nums[split] += len(shard.rows)
                shards.append({"name": shard.name, "num_clips": len(shard.rows)})
                seconds = time.monotonic() - started_s
                log.info("export shards=%d clips=%d s=%.0f", len(shards), nums.total(), seconds)
    if settings.format == "huggingface":
        text = card(seen.name or "now", dict(nums), media)
        storage.write_bytes(storage.join(out, "README.md"), text.encode())
    _finish(out, shards)
    kept = sum(shard["name"] in held for shard in shards)
    return Answer(
        f"{out}: {nums.total()} clips in {len(shards)} shards ({kept} lay there already), "
        f"{words.counts(nums)}",
        {"out": out, "num_clips": dict(nums), "shards": shards, "num_kept": kept},
    )


def _held(out: str) -> dict[str, int]:
    """Return the files of the folder, by name below it."""
    files = storage.list_files(out) if storage.exists(out) else iter(())
    return {info.uri.removeprefix(f"{out}/"): info.size_bytes for info in files}


def _claim(out: str, seen: View, settings: DatasetSettings, held: Mapping[str, int]) -> None:
    """Say in the folder what is exported; refuse one that holds something else."""
    versions = {} if seen.name else dict(sorted(seen.versions.items()))
    words_ = {
        "dataset": seen.dataset.root,
        "release": seen.name,
        "digest": seen.digest,
        "versions": versions,
        "selection": hashlib.sha256(seen.selection.model_dump_json().encode()).hexdigest()[:16],
        "format": settings.format,
        "splits": list(settings.splits),
        "shard_mib": settings.shard_mib,
    }
    uri = storage.join(out, _PLAN)
    if _PLAN not in held:
        if held:
            raise DataError(f"{out}: holds files but no {_PLAN}; choose an empty folder (--out)")
        storage.write_bytes(uri, json.dumps(words_, indent=1).encode())
        return
    try:
        found = json.loads(storage.read_text(uri))
    except ValueError as fault:
        raise DataError(f"{uri}: cannot be understood ({fault}); choose another --out") from fault
    other = [name for name, value in words_.items() if found.get(name) != value]
    if other:
        raise DataError(
            f"{out}: holds an export with other {', '.join(other)}; choose another folder (--out), "
            "and export a release (--release) where an export is to be resumed"
        )


def _finish(out: str, shards: list[dict[str, Any]]) -> None:
    text = json.dumps({"shards": shards}, indent=1)
    storage.write_bytes(storage.join(out, "shards.json"), text.encode())


def _media_columns(seen: View, splits: Sequence[str]) -> dict[str, str]:
    """Return the column for the bytes of each kind of clip that is exported."""
    chosen, values = captioned_sql(seen.selection)
    marks = ", ".join("?" * len(splits))
    sql = f"SELECT DISTINCT kind FROM ({chosen}) WHERE split IN ({marks}) ORDER BY kind DESC"
    with query(seen.dataset, sql, seen.versions, parameters=[*values, *splits]) as rows:
        return {str(kind): str(kind) for kind in rows.read_all()["kind"].to_pylist()}


def _rows(seen: View, split: str) -> Generator[dict[str, Any]]:
    """Yield the clips of one split in order of clip_id, with their captions and scores."""
    with captioned(seen, split, _COLUMNS) as clips, _scores(seen) as scores:
        groups = itertools.groupby(_flat(scores), key=lambda score: score["clip_id"])
        now, found = next(groups, ("", iter(())))
        for row in _flat(clips):
            while now and now < row["clip_id"]:
                now, found = next(groups, ("", iter(())))
            own = list(found) if now == row["clip_id"] else []
            row["fps"] = (row["fps_num"] or 0) / (row["fps_den"] or 1)
            row["scores"] = [
                {name: score[name] for name in ("scorer", "version", "value")} for score in own
            ]
            yield row


def _scores(seen: View):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as `query`
    """Give all scores in order of clip_id, to be merged with the clips as they stream by."""
    chosen, values = selected_sql(seen.selection)
    sql = (
        "SELECT clip_id, scorer, coalesce(version, '') AS version, value FROM scores "
        f"SEMI JOIN ({chosen}) AS chosen USING (clip_id) ORDER BY clip_id, scorer, version, value"
    )
    return query(seen.dataset, sql, seen.versions, parameters=values)


def _flat(batches: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


def _shards(
    rows: Iterator[dict[str, Any]], split: str, settings: DatasetSettings
) -> Iterator[Shard]:
    """Lay clips out into files, by their sizes alone."""
    held: list[dict[str, Any]] = []
    num_bytes, index = 0, 0
    folder = "data/" if settings.format == "huggingface" else ""

    def name() -> str:
        return f"{folder}{split}-{index:06d}.{_ENDINGS[settings.format]}"

    for row in rows:
        full = num_bytes + row["media_length"] > settings.shard_mib * _MIB
        if held and (full or len(held) == _MAX_ROWS):
            yield Shard(name(), held)
            held, num_bytes, index = [], 0, index + 1
        held.append(row)
        num_bytes += row["media_length"]
    if held:
        yield Shard(name(), held)


def _write(
    shard: Shard, seen: View, settings: DatasetSettings, media: Mapping[str, str], out: str
) -> None:
    """Write a shard beside, then put it in its place at once."""
    with tempfile.TemporaryDirectory(prefix="snapvideo-export-") as scratch:
        path = Path(scratch, "shard")
        try:
            with _pack(path, settings, media) as pack:
                fetch = functools.partial(read_media, seen.dataset.root)
                for row, data in worked(fetch, shard.rows, settings.threads):
                    pack.add(row, data)
        except OSError as fault:
            raise DataError(
                f"{path}: cannot be written ({fault}); free space, or set TMPDIR"
            ) from fault
        storage.upload(path, storage.join(out, shard.name))


def _pack(path: Path, settings: DatasetSettings, media: Mapping[str, str]) -> Pack:
    if settings.format == "webdataset":
        return TarPack(path)
    return ParquetPack(path, media, features=settings.format == "huggingface")
