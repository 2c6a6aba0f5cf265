"""Rows of lists and manifests as plain mappings, streamed, whatever the file format.

A row that cannot be read is a `BadRow`; a file that cannot be read is a `DataError`.
"""

import collections
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError
from pipelines.sources.config import ManifestSettings

Row = dict[str, Any]

LISTS = ("txt", "lst")
TABLES = ("parquet", "csv", "tsv", "jsonl", "ndjson")

_BATCH_ROWS = 256
_LINE = "{place}: line {number} is longer than {kib} KiB (setting sources.manifest.max_row_kib)"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    reason: str
    message: str


Rows = Iterator[tuple[int, Row | BadRow]]


def read_rows(path: Path, suffix: str, place: str, settings: ManifestSettings) -> Rows:
    """Yield each row of a list or manifest with its number, from 1.

    Args:
        path: The file.
        suffix: Its format, one of `LISTS` and `TABLES`.
        place: What messages call it.
        settings: Which columns are needed, and limits.

    Raises:
        DataError: It is not in that format, or lacks a column.
    """
    if suffix == "parquet":
        yield from _parquet(path, place, settings)
        return
    with path.open("rb") as file:
        if suffix in LISTS:
            yield from _list(file, place, settings)
        elif suffix in ("csv", "tsv"):
            yield from _csv(file, place, settings, "\t" if suffix == "tsv" else ",")
        else:
            yield from _jsonl(file, place, settings)


def _list(file: IO[bytes], place: str, settings: ManifestSettings) -> Rows:
    for number, line in _lines(file, place, settings):
        if isinstance(line, BadRow):
            yield number, line
        elif line.strip() and not line.startswith("#"):
            yield number, {settings.uri_column: line.strip("\r\n")}


def _jsonl(file: IO[bytes], place: str, settings: ManifestSettings) -> Rows:
    for number, line in _lines(file, place, settings):
        if isinstance(line, BadRow):
            yield number, line
        elif line.strip():
            yield number, _json_row(line, f"{place}: line {number}", settings)


def _json_row(line: str, where: str, settings: ManifestSettings) -> Row | BadRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as fault:
        return BadRow("bad_row", f"{where}: not JSON ({fault})")
    if not isinstance(row, dict):
        return BadRow("bad_row", f"{where}: an object is needed, not {row!r:.60}")
    if settings.uri_column not in row:
        return BadRow("bad_row", f"{where}: {_lacking([settings.uri_column], list(row))}")
    return row


def _csv(file: IO[bytes], place: str, settings: ManifestSettings, delimiter: str) -> Rows:
    lines = _csv_lines(file, place, settings)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        check_columns(names, place, settings)
        for number, values in enumerate(reader, 1):
            if values:
                yield number, _csv_row(names, values, f"{place}: row {number}")
    except csv.Error as fault:
        raise DataError(
            f"{place}: not CSV at line {reader.line_num} ({fault}); mend that line; fields of more "
            f"than {csv.field_size_limit()} letters are not read"
        ) from fault


def _csv_row(names: Sequence[str], values: Sequence[str], where: str) -> Row | BadRow:
    if len(values) != len(names):
        return BadRow("bad_row", f"{where}: {len(values)} fields, the header names {len(names)}")
    if any("\ud800" <= letter <= "\udfff" for value in values for letter in value):
        return BadRow("bad_row", f"{where}: not UTF-8")
    return dict(zip(names, values, strict=True))


def _csv_lines(file: IO[bytes], place: str, settings: ManifestSettings) -> Iterator[str]:
    """Yield lines with what is not UTF-8 marked; one row may have several lines."""
    limit_bytes = settings.max_row_kib << 10
    for number, line in enumerate(iter(lambda: file.readline(limit_bytes + 1), b""), 1):
        if len(line) > limit_bytes:
            raise DataError(_LINE.format(place=place, number=number, kib=settings.max_row_kib))
        text = line.decode(errors="surrogateescape")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _lines(
    file: IO[bytes], place: str, settings: ManifestSettings
) -> Iterator[tuple[int, str | BadRow]]:
    """Yield each line with its number, from 1; of one that is too long, only that."""
    limit_bytes = settings.max_row_kib << 10
    number = 0
    while line := file.readline(limit_bytes + 1):
        number += 1
        if len(line) > limit_bytes:
            while line and not line.endswith(b"\n"):
                line = file.readline(limit_bytes)
            message = _LINE.format(place=place, number=number, kib=settings.max_row_kib)
            yield number, BadRow("row_too_long", message)
            continue
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as fault:
            yield number, BadRow("bad_row", f"{place}: line {number} is not UTF-8 ({fault})")


def _parquet(path: Path, place: str, settings: ManifestSettings) -> Rows:
    try:
        with pq.ParquetFile(path) as file:
            _check_parquet(file, place, settings)
            number = 0
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                for row in _rows(_plain(batch), place, number, settings):
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError, OverflowError) as fault:
        raise DataError(f"{place}: cannot be read as Parquet ({fault})") from fault


def _rows(
    batch: pa.RecordBatch, place: str, before: int, settings: ManifestSettings
) -> Iterator[Row | BadRow]:
    """Yield the rows of a batch; those of a large one each for itself, where it is not too long."""
    limit_bytes = settings.max_row_kib << 10
    if batch.nbytes <= limit_bytes:
        yield from batch.to_pylist()
        return
    for at in range(len(batch)):
        row = _unshared(batch.slice(at, 1))
        if row.nbytes > limit_bytes:
            message = f"{place}: row {before + at + 1} is longer than {settings.max_row_kib} KiB"
            yield BadRow("row_too_long", f"{message} (setting sources.manifest.max_row_kib)")
        else:
            yield from row.to_pylist()


def _unshared(row: pa.RecordBatch) -> pa.RecordBatch:
    """Return a row with values of its own, where it has its share of those of a whole batch."""
    columns = [column.cast(_unshared_type(column.type)) for column in row.columns]
    return pa.RecordBatch.from_arrays(columns, names=row.schema.names)


def _unshared_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _unshared_type(kind.value_type)
    if kind == pa.string_view():
        return pa.large_string()
    return pa.large_binary() if kind == pa.binary_view() else kind


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows with times as text; not every time is one of Python's."""
    columns = [
        column.cast(pa.string()) if pa.types.is_temporal(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _check_parquet(file: pq.ParquetFile, place: str, settings: ManifestSettings) -> None:
    """Refuse wrong columns, and row groups that would fill the memory."""
    schema = file.schema_arrow
    check_columns(schema.names, place, settings)
    texts = [settings.uri_column, settings.lang_column, settings.partition_column]
    for name in filter(None, texts):
        if not _is_text(schema.field(name).type):
            raise DataError(
                f"{place}: column '{name}' is {schema.field(name).type}, text is needed; cast it, "
                "or name another column (settings sources.manifest.*_column)"
            )
    most_bytes = settings.max_group_mib << 20
    for index in range(file.metadata.num_row_groups):
        size_bytes = file.metadata.row_group(index).total_byte_size
        if size_bytes > most_bytes:
            raise DataError(
                f"{place}: row group {index} has {size_bytes >> 20} MiB, at most "
                f"{settings.max_group_mib} (setting sources.manifest.max_group_mib); write it with "
                "smaller row groups"
            )


def check_columns(names: Sequence[str], place: str, settings: ManifestSettings) -> None:
    """Check that the columns that settings name are there, each once.

    Raises:
        DataError: One is missing, or there twice.
    """
    needed = [
        settings.uri_column, *settings.caption_columns, settings.lang_column,
        settings.partition_column, settings.date_column, settings.stamp_column,
    ]  # fmt: skip
    missing = [name for name in needed if name and name not in names]
    if missing:
        raise DataError(f"{place}: {_lacking(missing, names)}")
    twice = sorted(name for name, num in collections.Counter(names).items() if num > 1)
    if twice:
        raise DataError(f"{place}: columns {twice} are there twice; rename them")


def _lacking(missing: Sequence[str], names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:30]) or "none"
    shown = shown.encode(errors="backslashreplace").decode()  # JSON may escape half a character
    return (
        f"no column {', '.join(repr(name) for name in missing)}; there are {shown}; add it, or "
        "name another (settings sources.manifest.*_column)"
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
