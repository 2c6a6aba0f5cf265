"""What a clip holds, from its own packets and from what was seen of its source."""

from dataclasses import replace

import av
import numpy as np

from infra.stills import Frames, Header, Limits, VideoError
from infra.video import header_of, opened
from pipelines.steps.changes import CHANGE, COLOUR, Rows, measured
from pipelines.steps.found import Scan, Span
from pipelines.steps.packets import Tally, alone, shown_packets
from pipelines.steps.remux import Copy
from pipelines.steps.watch import Thumbs

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's name of the format


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
    return _joined(tally, _first(data, limits)[1], source, span)


def copied_scan(copy: Copy, source: Scan, span: Span, limits: Limits) -> Scan:
    """Return what a remuxed clip holds, on its own clock.

    Its first frame is decoded where the source's frames were, or where no keyframe of it was.

    Raises:
        VideoError: It does not hold the span's frames.
    """
    header = replace(source.header, container=_MP4, has_audio=False, time_base=copy.clock)
    found = _joined(copy.tally, header, source, span)
    if source.validated_by == "packets" and found.thumb_frames:
        return found
    frame, header = _first(copy.data, limits)
    if header.rotation != source.header.rotation:
        raise VideoError("miscut", "the copy lost its rotation")
    fps, duration_s = found.header.fps, found.header.duration_s
    found = replace(found, header=replace(header, fps=fps, duration_s=duration_s))
    if found.thumb_frames:
        return found
    thumbs = Thumbs()(frame)[None]
    return replace(found, thumbs=thumbs, thumb_frames=[0], changes=measured(thumbs))


def _first(data: bytes, limits: Limits) -> tuple[av.VideoFrame, Header]:
    """Return the first frame of a clip, decoded alone, and its header."""
    with opened(data, limits, by_header=True) as (container, stream):
        for packet in shown_packets(container, stream):
            for frame in alone(stream, packet)[:1]:
                return frame, header_of(container, stream, frame)
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
    """Return the thumbnails of a span's frames, and which frames those are."""
    low = int(np.searchsorted(source.thumb_frames, span.start))
    high = int(np.searchsorted(source.thumb_frames, span.end))
    return source.thumbs[low:high], [at - span.start for at in source.thumb_frames[low:high]]


def _changes(source: Scan, span: Span, thumbs: Frames) -> Rows:
    if source.validated_by == "packets":
        return measured(thumbs)  # between keyframes
    rows = source.changes[span.start : span.end].copy()
    rows[0, [CHANGE, COLOUR]] = 0.0  # nothing comes before a clip's first frame
    return rows
