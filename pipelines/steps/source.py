"""Everything about one source file: read it, name it, look at it, cut it, read its caption.

The result is an `Outcome`: clips as rows of the clips table with their bytes, or the reason why
there are none. A bad file is data, not an exception.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from infra import storage
from infra.errors import DataError, ServiceError
from infra.stills import VideoError
from pipelines.ingest_config import IngestSettings
from pipelines.steps.cut import CutClip, cut
from pipelines.steps.discover import caption_uri
from pipelines.steps.scan import Scan, perceptual_hash, scan
from pipelines.steps.shots import Span, spans

_BUCKETS = 1000


@dataclass(frozen=True)
class Refusal:
    """Why a file, its caption or a part of it is not used."""

    stage: str
    reason: str
    message: str
    retryable: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one source file."""

    uri: str
    source_id: str = ""
    known: bool = False
    """Its clips are in the dataset already, so it was not decoded."""
    caption: str | None = None
    clips: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def examine(uri: str, known: frozenset[str], settings: IngestSettings) -> Outcome:
    """Return what becomes of a file.

    Args:
        uri: Where it lies.
        known: Source ids whose clips the dataset holds; these are not decoded again.
        settings: What is accepted and how it is cut.
    """
    try:
        data = _read(uri, settings.accept.max_source_mib)
    except VideoError as fault:
        return Outcome(uri, refusals=[_refusal("read", fault)])
    source_id = hashlib.sha256(data).hexdigest()
    caption, refusals = _caption(uri)
    if source_id in known:
        return Outcome(uri, source_id, known=True, caption=caption, refusals=refusals)
    clips: list[tuple[dict[str, Any], bytes]] = []
    try:
        found = scan(data, settings.accept, settings.cut)
        laid, short = _laid(found, settings)
        for clip in cut(data, found, laid, settings.cut, settings.accept.limits()):
            row = _row(clip, found, settings.transform_id)
            clips.append((_identified(row, uri, source_id), clip.data))
    except VideoError as fault:
        return Outcome(uri, source_id, refusals=[*refusals, _refusal("decode", fault)])
    return Outcome(uri, source_id, False, caption, clips, [*refusals, *short])


def clip_id(source_id: str, row: dict[str, Any]) -> str:
    """Return the identity of a clip: a hash of its source, its exact span and how it was cut."""
    span = (row["src_start_pts"], row["src_end_pts"], row["src_tb_num"], row["src_tb_den"])
    words = f"{source_id} {span} {row['transform_id']}"
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def _read(uri: str, max_mib: int) -> bytes:
    try:
        files, path = storage.filesystem(uri)
        size_bytes = files.get_file_info(path).size or 0
        if size_bytes > max_mib << 20:
            raise VideoError("too_large", f"{size_bytes >> 20} MiB, at most {max_mib} MiB a file")
        data = storage.read_bytes(uri)
    except (DataError, ServiceError, OSError) as fault:
        if isinstance(fault, VideoError):
            raise
        raise VideoError("unreadable_file", str(fault)) from fault
    if not data:
        raise VideoError("empty_file", "the file has 0 bytes")
    return data


def _refusal(stage: str, fault: VideoError) -> Refusal:
    return Refusal(stage, fault.reason, fault.message[:500], fault.reason == "unreadable_file")


def _caption(uri: str) -> tuple[str | None, list[Refusal]]:
    """Return the sidecar caption of a file, or what is wrong with it."""
    place = caption_uri(uri)
    try:
        data = storage.read_bytes(place)
    except DataError as fault:
        if not storage.exists(place):
            return None, []  # nobody wrote one
        return None, [Refusal("caption", "caption_unreadable", str(fault)[:500], retryable=True)]
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as fault:
        return None, [Refusal("caption", "caption_not_utf8", f"{place}: {fault}")]
    if not text:
        return None, [Refusal("caption", "caption_empty", f"{place}: no text")]
    return text, []


def _laid(found: Scan, settings: IngestSettings) -> tuple[list[Span], list[Refusal]]:
    """Return the spans that are long enough, and a refusal for each that is not."""
    least = 1 if found.header.kind == "image" else settings.accept.min_frames
    every = spans(found, settings.cut)
    laid = [span for span in every if span.end - span.start >= least]
    if not laid:
        raise VideoError("too_short", f"{found.num_frames} frames, at least {least}")
    short = [
        Refusal("cut", "short_shot", f"frames {span.start} to {span.end}, at least {least}")
        for span in every
        if span.end - span.start < least
    ]
    return laid, short


def _row(clip: CutClip, source: Scan, transform_id: str) -> dict[str, Any]:
    """Return the columns of the clips table that the pixels decide."""
    found, header, span = clip.found, clip.found.header, clip.span
    stop = source.pts[span.end] if span.end < source.num_frames else source.end_pts
    clock = source.header.time_base
    return {
        "kind": header.kind,
        "src_start_pts": source.pts[span.start],
        "src_end_pts": stop,
        "src_tb_num": clock.numerator,
        "src_tb_den": clock.denominator,
        "shot_index": span.shot_index,
        "encode_mode": clip.mode,
        "transform_id": transform_id,
        "container": header.container,
        "codec": header.codec,
        "pix_fmt": header.pix_fmt,
        "color_trc": header.color_trc,
        "bit_depth": header.bit_depth,
        "width": header.width,
        "height": header.height,
        "coded_width": header.coded_width,
        "coded_height": header.coded_height,
        "rotation": header.rotation,
        "sar": f"{header.sar.numerator}:{header.sar.denominator}",
        "crop": asdict(clip.crop),
        "fps_num": header.fps.numerator,
        "fps_den": header.fps.denominator,
        "is_vfr": found.is_vfr,
        "num_frames": found.num_frames,
        "duration_s": found.seconds(found.end_pts),
        "keyframe_pts": [found.pts[index] for index in found.keyframes],
        "interlaced": header.interlaced,
        "has_audio": header.has_audio,
        "phash": perceptual_hash(found.middle_thumb),
    }


def _identified(row: dict[str, Any], uri: str, source_id: str) -> dict[str, Any]:
    return row | {
        "clip_id": clip_id(source_id, row),
        "source_id": source_id,
        "source_uri": uri,
        "split_bucket": int(source_id[:12], 16) % _BUCKETS,
    }


def examine_all(
    uris: list[str], known: frozenset[str], settings: IngestSettings
) -> Iterator[Outcome]:
    """Yield what becomes of each file, in order."""
    for uri in uris:
        yield examine(uri, known, settings)
