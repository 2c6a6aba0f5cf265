"""Look at a source without decoding it: every packet is read, keyframes are decoded sparsely.

Found: files that are cut off, empty or flagged packets, times that repeat, damaged keyframes
among those that are decoded, sizes that change at them. Not found: damage inside other frames,
a size that changes in between, interlaced frames after a progressive start. Only for codecs whose
packets are frames; where anything is unusual, the source is decoded after all.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import av.container
import numpy as np

from infra.stills import Frames, Header, VideoError
from infra.video import header_of, opened
from pipelines.ingest_config import AcceptSettings
from pipelines.steps.bars import Bars
from pipelines.steps.changes import measured
from pipelines.steps.found import Scan
from pipelines.steps.watch import Thumbs, check_end, check_policy, check_times, tags_of, whole_or

_CODECS = ("h264", "hevc", "vp9", "av1")  # a packet is a frame, a keyframe's flag is true


class NotByPacketsError(Exception):
    """This source's packets do not tell enough; its frames must be decoded."""


@dataclass
class Tally:
    """What the packets of a stream say, in the order they are stored."""

    pts: list[int] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    """Times of keyframes that nothing before or after reaches across."""
    last_duration: int = 0
    is_open: bool = False
    """Whether groups of pictures reach into each other, so that keyframes are no place to cut."""
    _top: int = 0

    def add(self, pts: int, duration: int, *, is_key: bool) -> None:
        """Take a packet."""
        if is_key and (not self.pts or pts > self._top):
            self.keyframes.append(pts)
        elif self.keyframes and pts < self.keyframes[-1]:
            self.keyframes.pop()  # shown before the keyframe it is stored after
            self.is_open = True
        self.pts.append(pts)
        self._top = max(self._top, pts) if len(self.pts) > 1 else pts
        self.last_duration = duration or self.last_duration


@dataclass
class _Looks:
    """Keyframes that were decoded."""

    header: Header | None = None
    thumbs: list[Frames] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    bars: Bars | None = None
    shrink: Thumbs = field(default_factory=Thumbs)

    def add(self, frame: av.VideoFrame, header: Header, pts: int) -> None:
        """Take a decoded keyframe."""
        if frame.is_corrupt:
            raise VideoError("corrupt", f"the keyframe at {frame.time} s is damaged")
        if self.header and (frame.width, frame.height) != (
            self.header.coded_width,
            self.header.coded_height,
        ):
            raise VideoError("size_changes", f"to {frame.width} x {frame.height} px")
        self.header = self.header or header
        if self.bars:
            self.bars.add(frame, header.sar)
        self.thumbs.append(self.shrink(frame))
        self.pts.append(pts)


def scan_packets(data: bytes | Path, accept: AcceptSettings, *, find_bars: bool) -> Scan:
    """Return what a video holds by its packets.

    Raises:
        VideoError: It is cut off, damaged where that shows, or beyond the limits.
        NotByPacketsError: Its frames have to be decoded.
    """
    limits, tally = accept.limits(), Tally()
    looks = _Looks(bars=Bars() if find_bars else None)
    with opened(data, limits, by_header=True) as (container, stream):
        if stream.codec_context.codec.canonical_name not in _CODECS or not stream.time_base:
            raise NotByPacketsError
        gap = accept.sample_s / float(stream.time_base)
        for packet in shown_packets(container, stream):
            assert packet.pts is not None
            tally.add(packet.pts, packet.duration or 0, is_key=packet.is_keyframe)
            if len(tally.pts) > limits.max_frames:
                raise VideoError("too_many_frames", f"over {limits.max_frames} frames")
            if packet.is_keyframe and (not looks.pts or packet.pts - looks.pts[-1] >= gap):
                for frame in alone(stream, packet):
                    looks.add(frame, header_of(container, stream, frame), packet.pts)
        tags, start = tags_of(container, stream), stream.start_time
    if looks.header is None:
        raise NotByPacketsError
    check_policy(looks.header, accept)
    if looks.header.must_encode:
        raise NotByPacketsError
    return _result(tally, looks, looks.header, accept, tags, start)


def shown_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> "Iterator[av.Packet[av.VideoStream]]":
    """Yield the packets of shown frames as they are stored, from the first keyframe on.

    Raises:
        VideoError: A packet is damaged or empty.
        NotByPacketsError: Packets have no times.
    """
    first: int | None = None
    for number, packet in enumerate(container.demux(stream)):
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            continue  # the end
        if packet.is_corrupt or packet.size == 0:
            raise VideoError("corrupt", f"packet {number} is damaged")
        if packet.pts is None:
            raise NotByPacketsError
        if first is None and packet.is_keyframe:
            first = packet.pts
        if first is not None and packet.pts >= first and not packet.is_discard:
            yield packet


def alone(stream: av.VideoStream, packet: "av.Packet[av.VideoStream]") -> list[av.VideoFrame]:
    """Return the frames of a keyframe's packet, decoded by itself."""
    context = stream.codec_context
    frames = [*context.decode(packet), *context.decode(None)]
    context.flush_buffers()
    return frames


def _result(
    tally: Tally,
    looks: _Looks,
    header: Header,
    accept: AcceptSettings,
    tags: dict[str, str],
    start: int | None,
) -> Scan:
    if tally.is_open:
        raise NotByPacketsError
    times = sorted(tally.pts)
    check_times(times, header)
    gaps = np.diff(times)
    gap = round(float(np.median(gaps))) if len(gaps) else tally.last_duration
    index = {pts: at for at, pts in enumerate(times)}
    thumbs = np.stack(looks.thumbs)
    skipped = max(0, round((times[0] - (times[0] if start is None else start)) / max(1, gap)))
    found = Scan(
        header=header,
        first_pts=times[0],
        pts=[pts - times[0] for pts in times],
        end_pts=times[-1] - times[0] + max(1, gap),
        keyframes=[index[pts] for pts in tally.keyframes],
        num_skipped=skipped,
        thumbs=thumbs,
        thumb_frames=[index[pts] for pts in looks.pts],
        changes=measured(thumbs),
        bars=whole_or(looks.bars, header),
        tags=tags,
        validated_by="packets",
    )
    if found.keyframes[:1] != [0] or any(a >= b for a, b in itertools.pairwise(found.keyframes)):
        raise NotByPacketsError
    check_end(found, accept.limits())
    return found
