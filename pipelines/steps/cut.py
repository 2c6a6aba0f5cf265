"""Turn the spans of a source into encoded clips.

A source that is one clip keeps its bytes. A span between keyframes is remuxed, which costs about
a hundredth of encoding; any other span is decoded and encoded again, upright and with its times.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import av.error

from infra.stills import Frames, Limits, VideoError
from infra.video import decoded, encode_video, opened, upright
from pipelines.ingest_config import CutSettings
from pipelines.steps.scan import Scan, scan
from pipelines.steps.shots import Span

_REMUXED = ("h264", "hevc", "vp9", "av1", "mpeg4")  # what MP4 holds and browsers know


@dataclass(frozen=True)
class CutClip:
    """One clip: its span of the source, its bytes, and what those hold."""

    span: Span
    mode: Literal["original", "remux", "transcode"]
    data: bytes
    found: Scan


def cut(
    data: bytes, source: Scan, spans: list[Span], settings: CutSettings, limits: Limits
) -> Iterator[CutClip]:
    """Yield the clips of a source, in the order of `spans`.

    Raises:
        VideoError: The source cannot be decoded again.
    """
    whole = len(spans) == 1 and spans[0].end - spans[0].start == source.num_frames
    if whole and source.num_skipped == 0:
        yield CutClip(spans[0], "original", data, source)
        return
    remuxed = {span: _remux(data, source, span, limits) for span in spans}
    rest = [span for span, clip in remuxed.items() if clip is None]
    encoded = _transcode(data, source, rest, settings, limits)
    for span in spans:
        yield remuxed[span] or next(encoded)


def _remux(data: bytes, source: Scan, span: Span, limits: Limits) -> CutClip | None:
    """Return the span with its packets copied; None where that would not give its frames."""
    edges = {*source.keyframes, source.num_frames}
    if not {span.start, span.end} <= edges or source.header.codec not in _REMUXED:
        return None
    start = source.first_pts + source.pts[span.start]
    stop = source.first_pts + (
        source.pts[span.end] if span.end < source.num_frames else source.end_pts
    )
    try:
        packed = _copy_packets(data, start, stop, limits)
        found = scan(packed, limits)
    except (VideoError, av.error.FFmpegError):
        return None  # the container cannot hold it; encoding can
    same = found.num_frames == span.end - span.start
    if not same or found.header.rotation != source.header.rotation:
        return None
    return CutClip(span, "remux", packed, found)


def _copy_packets(data: bytes, start: int, stop: int, limits: Limits) -> bytes:
    file = io.BytesIO()
    options = {"fflags": "+bitexact"}
    with (
        opened(data, limits) as (container, stream),
        av.open(file, mode="w", format="mp4", container_options=options) as out,
    ):
        target = out.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.pts is None or packet.dts is None or not start <= packet.pts < stop:
                continue
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            packet.stream = target
            out.mux(packet)
    return file.getvalue()


def _transcode(
    data: bytes, source: Scan, spans: list[Span], settings: CutSettings, limits: Limits
) -> Iterator[CutClip]:
    """Yield spans encoded again, in one pass over the source."""
    if not spans:
        return
    owners = {index: span for span in spans for index in range(span.start, span.end)}
    fps = source.header.fps or Fraction(25)
    with opened(data, limits) as (container, stream):
        frames = enumerate(decoded(container, stream))
        for span, group in itertools.groupby(frames, key=lambda item: owners.get(item[0])):
            if span is None:
                continue
            images: Iterator[Frames] = (upright(frame, stream) for _, frame in group)
            zero = source.pts[span.start]
            times = [source.seconds(pts - zero) for pts in source.pts[span.start : span.end]]
            encoded = encode_video(images, fps, crf=settings.crf, pts_s=times)
            yield CutClip(span, "transcode", encoded, scan(encoded, limits))
