"""What a clip holds, from its own packets and from what was seen of its source."""

from dataclasses import replace

import numpy as np

from infra.stills import Frames, Header, Limits, VideoError
from infra.video import header_of, opened
from pipelines.steps.changes import CHANGE, COLOUR, Rows, measured
from pipelines.steps.found import Scan, Span
from pipelines.steps.packets import Tally, alone, shown_packets
from pipelines.steps.remux import Copy


def encoded_scan(data: bytes, source: Scan, span: Span, limits: Limits) -> Scan:
    """Return what an encoded clip holds, on its own clock, by its packets and its first frame.

    Raises:
        VideoError: It does not hold the span's frames.
    """
    tally = Tally()
    with opened(data, limits, by_header=True) as (container, stream):
        for packet in shown_packets(container, stream):
            assert packet.pts is not None
            tally.add(packet.pts, packet.duration or 0, is_key=packet.is_keyframe)
    return _joined(tally, first_header(data, limits), source, span)


def copied_scan(copy: Copy, source: Scan, span: Span, header: Header) -> Scan:
    """Return what a remuxed clip holds, on its own clock.

    Args:
        copy: The clip.
        source: What was seen of its pixels.
        span: Which frames it is to hold.
        header: Its own, or that of another clip copied from the same source.

    Raises:
        VideoError: It does not hold the span's frames.
    """
    return _joined(copy.tally, replace(header, time_base=copy.clock), source, span)


def first_header(data: bytes, limits: Limits) -> Header:
    """Return the header of a clip by its first frame, decoded alone."""
    with opened(data, limits, by_header=True) as (container, stream):
        for packet in shown_packets(container, stream):
            for frame in alone(stream, packet)[:1]:
                return header_of(container, stream, frame)
    raise VideoError("no_frames", "no frame could be decoded")


def _joined(tally: Tally, header: Header, source: Scan, span: Span) -> Scan:
    times, wanted = sorted(tally.pts), span.end - span.start
    if len(times) != wanted or tally.keyframes[:1] != times[:1]:
        raise VideoError("miscut", f"{len(times)} frames of {wanted}, or no keyframe first")
    index = {pts: at for at, pts in enumerate(times)}
    length_s = source.seconds(source.stop(span) - source.pts[span.start])
    thumbs, frames = _thumbs(source, span)
    return Scan(
        header=replace(header, fps=source.header.fps, duration_s=length_s),
        first_pts=times[0],
        pts=[pts - times[0] for pts in times],
        end_pts=max(times[-1] - times[0] + 1, round(length_s / header.time_base)),
        keyframes=[index[pts] for pts in tally.keyframes],
        num_skipped=0,
        thumbs=thumbs,
        thumb_frames=frames,
        changes=_changes(source, span, thumbs),
        bars=source.bars,
        tags=source.tags,
        validated_by=source.validated_by,
    )


def _thumbs(source: Scan, span: Span) -> tuple[Frames, list[int]]:
    """Return the thumbnails of a span's frames, or the last one before it, and their frames."""
    low = int(np.searchsorted(source.thumb_frames, span.start))
    high = int(np.searchsorted(source.thumb_frames, span.end))
    if low == high:
        before = max(0, low - 1)
        return source.thumbs[before : before + 1], [0]
    return source.thumbs[low:high], [at - span.start for at in source.thumb_frames[low:high]]


def _changes(source: Scan, span: Span, thumbs: Frames) -> Rows:
    if source.validated_by == "packets":
        return measured(thumbs)
    rows = source.changes[span.start : span.end].copy()
    rows[0, [CHANGE, COLOUR]] = 0.0  # nothing comes before a clip's first frame
    return rows
