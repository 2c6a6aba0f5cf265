"""Find the media files of a source folder and group them into partitions."""

import logging
from dataclasses import dataclass

from infra import storage
from infra.errors import DataError
from pipelines.ingest_config import IngestSettings

log = logging.getLogger(__name__)

_LOOSE = "root"


@dataclass(frozen=True)
class SourceFile:
    """One media file, and its sidecar caption's stamp (0 without one): what changes with it."""

    uri: str
    size_bytes: int
    modified_ns: int
    caption_bytes: int = 0
    caption_modified_ns: int = 0


def discover(source_uri: str, settings: IngestSettings) -> dict[str, list[SourceFile]]:
    """Return media files by partition, both sorted by name.

    A partition is the first folder below the source; files that lie loose form `root`. A `.txt`
    beside a media file, with its stem, is its caption. Hidden files are passed over.

    Raises:
        DataError: There is no such folder, it is empty, or holds no media.
    """
    root = storage.absolute(source_uri)
    if not storage.is_s3(root) and not storage.local_path(root).is_dir():
        raise DataError(f"source {source_uri}: no such folder; give a folder with videos or images")
    infos = {info.uri: info for info in storage.list_files(root)}
    if not infos:
        way_out = "put videos or images there"
        if storage.is_s3(root):
            way_out = f"check bucket and prefix, or {way_out}"
        raise DataError(f"source {source_uri}: the folder is empty; {way_out}")
    found: dict[str, list[SourceFile]] = {}
    for uri, info in infos.items():
        below = uri.removeprefix(root.rstrip("/") + "/").split("/")
        if not _is_media(below, settings.accept.suffixes):
            continue
        caption = infos.get(caption_uri(uri))
        stamps = (caption.size_bytes, caption.modified_ns) if caption else (0, 0)
        file = SourceFile(uri, info.size_bytes, info.modified_ns, *stamps)
        found.setdefault(below[0] if len(below) > 1 else _LOOSE, []).append(file)
    if not found:
        raise DataError(
            f"source {source_uri}: none of its {len(infos)} files is media; accepted endings: "
            f"{', '.join(settings.accept.suffixes)} (setting ingest.accept.suffixes)"
        )
    num_media = sum(len(files) for files in found.values())
    log.info("discovered files=%d media=%d partitions=%d", len(infos), num_media, len(found))
    return dict(sorted(found.items()))


def caption_uri(uri: str) -> str:
    """Return where the sidecar caption of a media file lies, if it has one."""
    folder, slash, name = uri.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0]}.txt"


def _is_media(below: list[str], suffixes: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") for part in below)
    stem, _, suffix = below[-1].rpartition(".")
    return bool(stem) and not hidden and suffix.lower() in suffixes
