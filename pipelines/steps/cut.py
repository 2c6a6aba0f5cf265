"""Turn the spans of a source into encoded clips.

A source that is one clip keeps its bytes. A span between keyframes is remuxed: its packets are
copied, for about a hundredth of the cost of encoding. Any other span is decoded and encoded
again, upright and with its times; so is all that must not stay as it is (HDR, interlaced).
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import av.error

from infra.plain import Plain
from infra.stills import Crop, Limits, VideoError
from infra.video import decoded, opened
from pipelines.ingest_config import CutSettings
from pipelines.steps.clip import copied_scan, encoded_scan
from pipelines.steps.encode import encode
from pipelines.steps.found import Scan, Span
from pipelines.steps.remux import Copy, remux

_REMUXED = ("h264", "hevc", "vp9", "av1", "mpeg4")  # what MP4 holds and browsers know


@dataclass(frozen=True)
class CutClip:
    """One clip: its span of the source, its bytes, and what those hold."""

    span: Span
    mode: Literal["original", "remux", "transcode"]
    data: bytes
    found: Scan
    crop: Crop
    """The box of the displayed picture that readers are to show."""


def cut(
    data: bytes | Path, source: Scan, spans: list[Span], settings: CutSettings, limits: Limits
) -> Iterator[CutClip]:
    """Yield the clips of a source, in the order of `spans`, one in memory at a time.

    Raises:
        VideoError: The source cannot be decoded again.
    """
    if source.made is not None and source.header.kind == "video":
        for span in spans:
            yield _encoded(span, source.made.take(span), source, limits)
        return
    if _stays(source, spans, settings):
        held = data if isinstance(data, bytes) else data.read_bytes()
        yield CutClip(spans[0], "original", held, source, _box(source, settings))
        return
    copied = _between_keyframes(spans, source, settings)
    copies = remux(data, source, [span for span in spans if span in copied], limits)
    to_encode: deque[Span] = deque()  # also copies that turn out not to show what they should
    encoded = _transcode(data, source, iter(to_encode.popleft, None), settings, limits)
    for span in spans:
        clip = None
        if span in copied:
            clip = _copied(span, next(copies), source, settings, limits)
        if clip is None:
            to_encode.append(span)
            clip = next(encoded)
        yield clip


def _stays(source: Scan, spans: list[Span], settings: CutSettings) -> bool:
    """Return whether the source's own bytes are its only clip."""
    if source.header.kind == "image":
        return True
    whole = len(spans) == 1 and spans[0].end - spans[0].start == source.num_frames
    return whole and source.num_skipped == 0 and _may_stay(source, settings)


def _may_stay(source: Scan, settings: CutSettings) -> bool:
    return settings.encode == "auto" and not source.header.must_encode


def _between_keyframes(spans: list[Span], source: Scan, settings: CutSettings) -> set[Span]:
    """Return the spans whose packets may be copied."""
    if not _may_stay(source, settings) or source.header.codec not in _REMUXED:
        return set()
    edges = {*source.keyframes, source.num_frames}
    return {span for span in spans if {span.start, span.end} <= edges}


def _copied(
    span: Span,
    copy: Copy | None,
    source: Scan,
    settings: CutSettings,
    limits: Limits,
) -> CutClip | None:
    """Return a remuxed clip if it shows the span's frames."""
    if copy is None:
        return None
    try:
        found = copied_scan(copy, source, span, limits)
    except (VideoError, av.error.FFmpegError):
        return None  # the container cannot hold it; encoding can
    return CutClip(span, "remux", copy.data, found, _box(source, settings))


def _box(source: Scan, settings: CutSettings) -> Crop:
    return source.bars if settings.crop_bars else source.whole


def _encoded(span: Span, data: bytes, source: Scan, limits: Limits) -> CutClip:
    found = encoded_scan(data, source, span, limits)
    return CutClip(span, "transcode", data, found, found.whole)


def _transcode(
    data: bytes | Path, source: Scan, spans: Iterable[Span], settings: CutSettings, limits: Limits
) -> Iterator[CutClip]:
    """Yield ascending spans encoded again, in one pass over the source up to the last one's end."""
    crop = source.bars if settings.crop_bars and source.bars != source.whole else None
    with opened(data, limits) as (container, stream):
        frames = decoded(container, stream)
        first = next(frames)
        plain = Plain(stream, first, settings.height, crop, deinterlace=source.header.interlaced)
        pictures = plain.pictures(itertools.chain([first], frames))
        at = 0
        for span in spans:
            for _ in range(at, span.start):
                next(pictures)
            at = span.end
            wanted = (next(pictures) for _ in range(span.start, span.end))
            times = source.pts[span.start : span.end]
            yield _encoded(
                span, encode(wanted, times, plain, source.header, settings), source, limits
            )
