"""Decode, look and encode in one pass, where it is certain that a source must be encoded.

Decoding is a third of the work of making small clips; doing it once for looking and once for
cutting would waste that. Pictures wait, already small, until it is clear where their clip ends;
where they would not fit into memory, two passes are made instead.
"""

import collections
import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import av.container

from infra.plain import Plain
from infra.stills import Header
from infra.video import decoded, opened
from pipelines.ingest_config import AcceptSettings, CutSettings
from pipelines.steps.encode import encode
from pipelines.steps.found import EncodedClips, Scan, Span
from pipelines.steps.shots import Borders, Plan, plan_for
from pipelines.steps.watch import Watch

_WAITING_BYTES = 512 << 20  # of pictures whose clip has no known end
_AHEAD_FRAMES = 100  # beyond two windows: what cuts are judged by


class NotInOnePassError(Exception):
    """It is not certain that this source must be encoded, or its pictures are too many."""


def scan_and_encode(data: bytes | Path, accept: AcceptSettings, cutting: CutSettings) -> Scan:
    """Return what a video holds, with its clips made.

    Raises:
        VideoError: It is broken, beyond the limits, or of a kind that is refused.
        NotInOnePassError: Look first, then cut.
    """
    if cutting.crop_bars:  # known only at the end
        raise NotInOnePassError
    with opened(data, accept.limits()) as (container, stream):
        return _OnePass(container, stream, accept, cutting).run()


class _OnePass:
    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        accept: AcceptSettings,
        cutting: CutSettings,
    ) -> None:
        self._container, self._stream, self._cutting = container, stream, cutting
        self._watch = Watch(container, stream, accept, find_bars=False)
        self._borders = Borders(cutting)
        self._plan: Plan | None = None
        self._laid: collections.deque[Span] = collections.deque()
        self._waiting: collections.deque[av.VideoFrame] = collections.deque()
        self._made = EncodedClips()
        self._most = 0

    def run(self) -> Scan:
        frames = self._watched()
        first = next(frames, None)
        header = self._watch.header
        if first is None or header is None:
            return self._watch.scan()  # tells what is wrong
        if self._cutting.encode == "auto" and not header.must_encode:
            raise NotInOnePassError
        plain = Plain(self._stream, first, self._cutting.height)
        self._most = self._room(header, plain.size)
        for picture in plain.pictures(itertools.chain([first], frames)):
            self._waiting.append(picture)
            self._encode(plain, header)
        rows = self._watch.finish()
        self._lay(self._borders.add(rows) + self._borders.finish())
        assert self._plan is not None
        self._laid += self._plan.finish(self._watch.end_pts())
        self._encode(plain, header)
        found = self._watch.scan(self._made)
        if found.header.must_encode != header.must_encode:
            raise NotInOnePassError  # interlaced from somewhere on: it has to be known before
        return found

    def _room(self, header: Header, size: tuple[int, int]) -> int:
        """Return how many pictures may wait; where two windows are more, give up now."""
        most = _WAITING_BYTES // (size[0] * size[1] * 3 // 2)
        if 2 * self._cutting.window_s * float(header.fps or 25) + _AHEAD_FRAMES > most:
            raise NotInOnePassError
        return most

    def _watched(self) -> Iterator[av.VideoFrame]:
        for frame in decoded(self._container, self._stream):
            rows = self._watch.add(frame)
            if self._plan is None and self._watch.header:
                self._plan = plan_for(self._watch.header, self._cutting)
            if len(rows):
                self._lay(self._borders.add(rows))
            yield frame

    def _lay(self, borders: list[int]) -> None:
        assert self._plan is not None
        self._laid += self._plan.add(self._watch.pts, borders, self._borders.num_decided)

    def _encode(self, plain: Plain, header: Header) -> None:
        """Encode the clips whose pictures are all there."""
        if len(self._waiting) > self._most:
            raise NotInOnePassError  # more frames a second than the header says
        while self._laid and len(self._waiting) >= self._laid[0].end - self._laid[0].start:
            span = self._laid.popleft()
            pictures = (self._waiting.popleft() for _ in range(span.start, span.end))
            times = self._watch.pts[span.start : span.end]
            data = encode(pictures, times, plain, header, self._cutting)
            self._made.add(span, data)
