"""The files that an export is made of: a tar of WebDataset, a Parquet file, one for Hugging Face.

Each is written to a local path, clip by clip, and holds at most one row group in memory.
"""

import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError

Row = Mapping[str, Any]
_Codec = Literal["gzip", "brotli", "lz4", "zstd", "snappy", "none"]

_TEXT: dict[str, pa.DataType] = {
    name: pa.string()
    for name in (
        *("clip_id", "split", "kind", "text", "origin", "recipe_id", "source_id"),
        *("source_uri", "codec", "container", "encode_mode", "media_sha256"),
    )
}
_NUMBERS: dict[str, pa.DataType] = {
    **dict.fromkeys(("width", "height", "num_frames", "src_start_pts", "src_end_pts"), pa.int64()),
    **dict.fromkeys(("src_tb_num", "src_tb_den", "shot_index"), pa.int64()),
    **dict.fromkeys(("duration_s", "fps"), pa.float64()),
}
_SCORES = pa.list_(
    pa.struct([("scorer", pa.string()), ("version", pa.string()), ("value", pa.float64())])
)
_FACTS: dict[str, pa.DataType] = {**_TEXT, **_NUMBERS, "scores": _SCORES}
_FILE: pa.DataType = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_GROUP_BYTES = 32 << 20
_GROUP_ROWS = 1000
_ENDINGS = {
    "mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg", "asf": "wmv", "ogg": "ogv",
    "jpeg": "jpg", "tiff": "tif",
}  # fmt: skip
_WEBM = ("vp8", "vp9", "av1")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


class Pack(Protocol):
    """A file that is being written; a context manager that closes it."""

    def __enter__(self) -> "Pack": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def add(self, row: Row, data: bytes) -> None:
        """Add a clip: its facts and its encoded bytes."""
        ...


class TarPack:
    """A tar of WebDataset: `<clip_id>.<ending>`, `.txt` and `.json` beside each other."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed below

    def __enter__(self) -> "TarPack":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tar.close()

    def add(self, row: Row, data: bytes) -> None:
        """Add a clip: its facts and its encoded bytes."""
        key = _key(row)
        facts = {name: row[name] for name in _FACTS if name != "text"}
        text = json.dumps(facts, ensure_ascii=False, sort_keys=True, default=str)
        self._add(f"{key}.{ending(row)}", data)
        self._add(f"{key}.txt", (row["text"] or "").encode())
        self._add(f"{key}.json", text.encode())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # times and owners stay zero: the same clips, the same tar
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


class ParquetPack:
    """A Parquet file: the bytes in columns of files, and the facts beside them."""

    def __init__(self, path: Path, media: Mapping[str, str], features: bool) -> None:
        """Open the file.

        Args:
            path: Where to.
            media: Column that holds the bytes of each kind of clip.
            features: Whether the schema tells Hugging Face's `datasets` what the columns are.
        """
        self._media, self._schema = media, schema(media, features)
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0
        codecs: dict[str, _Codec] = dict.fromkeys(_FACTS, "zstd")
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression=codecs,
            use_dictionary=[name for name in _TEXT if name not in ("clip_id", "text")],  # type: ignore[arg-type] # the stubs know only bool
            write_statistics=["clip_id"],
        )

    def __enter__(self) -> "ParquetPack":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, row: Row, data: bytes) -> None:
        """Add a clip: its facts and its encoded bytes."""
        file = {"bytes": data, "path": f"{_key(row)}.{ending(row)}"}
        self._rows.append({name: row[name] for name in _FACTS} | {self._media[row["kind"]]: file})
        self._num_bytes += len(data)
        if self._num_bytes >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._num_bytes = [], 0


def schema(media: Mapping[str, str], features: bool) -> pa.Schema:
    """Return the columns of a `ParquetPack`."""
    columns = {**dict.fromkeys(media.values(), _FILE), **_FACTS}
    found = pa.schema(columns)
    if not features:
        return found
    about = {"info": {"features": feature_tree(media)}}
    return found.with_metadata({"huggingface": json.dumps(about)})


def feature_tree(media: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns as Hugging Face's `datasets` writes their types."""
    tree: dict[str, Any] = {name: {"_type": kind.capitalize()} for kind, name in media.items()}
    for name, kind in _FACTS.items():
        if name != "scores":
            word = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "float64"}[kind]
            tree[name] = {"dtype": word, "_type": "Value"}
    tree["scores"] = [
        {
            "scorer": {"dtype": "string", "_type": "Value"},
            "version": {"dtype": "string", "_type": "Value"},
            "value": {"dtype": "float64", "_type": "Value"},
        }
    ]
    return tree


def ending(row: Row) -> str:
    """Return what the name of a clip's file ends with."""
    container = (row["container"] or "").partition(",")[0].removesuffix("_pipe")
    if container == "matroska" and row["codec"] in _WEBM:
        return "webm"
    found = _ENDINGS.get(container, container)
    return found if found.isalnum() else "bin"


def _key(row: Row) -> str:
    """Return a clip's name inside an export."""
    name = str(row["clip_id"])
    if not _NAME.fullmatch(name):
        raise DataError(
            f"clip {name!r}: not a name that snapvideo gives, and a file cannot be called so; "
            "see `snapvideo dataset verify`"
        )
    return name
