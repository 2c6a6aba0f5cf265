"""Copy the packets of spans into files of their own, in one pass over the source."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error

from infra.stills import Limits
from infra.video import opened
from pipelines.steps.found import Scan, Span
from pipelines.steps.packets import Tally

_MAX_UNDATED = 32  # packets without decoding times at the start; more is no reordering


@dataclass(frozen=True)
class Copy:
    """A file that packets were copied into."""

    data: bytes
    tally: Tally
    """Its packets, on its own clock."""
    clock: Fraction


class _File:
    """An MP4 file that packets are copied into."""

    def __init__(self, template: av.VideoStream, start: int) -> None:
        self._memory, self._start = io.BytesIO(), start
        options = {"fflags": "+bitexact"}
        self._out = av.open(self._memory, mode="w", format="mp4", container_options=options)
        self._stream = self._out.add_stream_from_template(template)
        self._failed = False
        self._tally, self._from = Tally(), Fraction(template.time_base or 1)

    def add(self, packet: "av.Packet[av.VideoStream]") -> None:
        if self._failed or packet.pts is None or packet.dts is None:
            self._failed = True
            return
        packet.pts, packet.dts = packet.pts - self._start, packet.dts - self._start
        shown, is_key = packet.pts, packet.is_keyframe
        packet.stream = self._stream
        try:
            self._out.mux(packet)
            clock = self._stream.time_base or self._from  # known once the header is written
            self._tally.add(round(shown * self._from / clock), 0, is_key=is_key)
        except (av.error.FFmpegError, ValueError):
            self._failed = True  # MP4 does not hold it as it is; encoding will

    def finish(self) -> Copy | None:
        try:
            self._out.close()
        except av.error.FFmpegError:
            self._failed = True
        clock = Fraction(self._stream.time_base or 1)
        return None if self._failed else Copy(self._memory.getvalue(), self._tally, clock)


def remux(
    data: bytes | Path, source: Scan, spans: list[Span], limits: Limits
) -> Iterator[Copy | None]:
    """Yield an MP4 file for each span; None where its packets cannot be copied.

    Args:
        data: The source.
        source: Its scan.
        spans: Spans that begin and end at keyframes, ascending.
        limits: What to refuse.
    """
    if not spans:
        return
    edges = [
        (source.first_pts + source.pts[span.start], source.first_pts + source.stop(span))
        for span in spans
    ]
    at, file = 0, None
    with opened(data, limits, by_header=True) as (container, stream):
        for packet in _dated(container.demux(stream)):
            if packet.pts is None or packet.is_discard or packet.pts < edges[at][0]:
                continue
            while at < len(edges) and packet.pts >= edges[at][1]:
                yield file.finish() if file else None
                at, file = at + 1, None
            if at == len(edges):
                return
            if packet.pts >= edges[at][0]:
                file = file or _File(stream, edges[at][0])
                file.add(packet)
        while at < len(edges):
            yield file.finish() if file else None
            at, file = at + 1, None


def _dated(packets: "Iterator[av.Packet[av.VideoStream]]") -> "Iterator[av.Packet[av.VideoStream]]":
    """Yield packets with decoding times, which Matroska leaves open for the first ones."""
    held: list[av.Packet[av.VideoStream]] = []
    for packet in packets:
        if packet.dts is None and packet.size and len(held) < _MAX_UNDATED:
            held.append(packet)
            continue
        if packet.dts is not None:
            for back, early in enumerate(reversed(held), 1):
                early.dts = packet.dts - back * max(1, early.duration or 1)
        yield from held
        held = []
        yield packet
    yield from held
