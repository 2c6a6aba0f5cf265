"""What a clip holds, from its own packets and from what was seen of its source."""

from dataclasses import replace

import numpy as np

from infra.stills import Frames, Header, Limits, VideoError
from infra.video import header_of, opened
from pipelines.steps.changes import CHANGE, COLOUR, Rows, measured
from pipelines.steps.found import Scan, Span
from pipelines.steps.packets import Tally, alone, shown_packets


def clip_scan(data: bytes, source: Scan, span: Span, limits: Limits) -> Scan:
    """Return what a clip holds, on its own clock.

    Its packets are counted and its first frame is decoded; its pixels were seen in the source.

    Raises:
        VideoError: It does not hold the span's frames.
    """
    tally, header = Tally(), None
    with opened(data, limits) as (container, stream):
        for packet in shown_packets(container, stream):
            assert packet.pts is not None
            tally.add(packet.pts, packet.duration or 0, is_key=packet.is_keyframe)
            if header is None:
                for frame in alone(stream, packet)[:1]:
                    header = header_of(container, stream, frame)
    wanted = span.end - span.start
    if header is None or len(tally.pts) != wanted:
        raise VideoError("miscut", f"{len(tally.pts)} frames of {wanted}")
    return _joined(sorted(tally.pts), tally, header, source, span)


def _joined(times: list[int], tally: Tally, header: Header, source: Scan, span: Span) -> Scan:
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
