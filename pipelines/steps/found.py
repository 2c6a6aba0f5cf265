"""What looking at a source brings to light; every later step reads it."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from infra.stills import Crop, Frames, Header
from pipelines.sources.sink import scratch_error
from pipelines.steps.changes import Rows

THUMB_PX = 16
_MEMORY_BYTES = 64 << 20  # of encoded clips that wait; more lie in a temporary file


@dataclass(frozen=True)
class Span:
    """Frames [start, end) of a source: one clip."""

    shot_index: int
    start: int
    end: int


class EncodedClips:
    """Clips that were encoded while their source was decoded."""

    def __init__(self) -> None:
        """Begin without clips."""
        self.spans: list[Span] = []
        self._places: dict[Span, tuple[int, int]] = {}
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - lives as long as the clips

    def add(self, span: Span, data: bytes) -> None:
        """Keep a clip.

        Raises:
            ServiceError: The temporary folder is full.
        """
        try:
            self._places[span] = (self._file.seek(0, 2), len(data))
            self._file.write(data)
        except OSError as fault:
            raise scratch_error(Path(tempfile.gettempdir()), fault) from fault
        self.spans.append(span)

    def take(self, span: Span) -> bytes:
        """Return a clip's bytes."""
        offset, length = self._places[span]
        self._file.seek(offset)
        return self._file.read(length)


@dataclass(frozen=True)
class Scan:
    """What a source holds; times are in units of `header.time_base` from the first shown frame."""

    header: Header
    first_pts: int
    """Where the first shown frame lies on the stream's own clock."""
    pts: list[int]
    end_pts: int
    keyframes: list[int]
    """Indices of frames that decode on their own."""
    num_skipped: int
    """Frames before the first keyframe, which cannot be decoded."""
    thumbs: Frames
    """RGB [N, THUMB_PX, THUMB_PX, 3] of the frames `thumb_frames`."""
    thumb_frames: list[int]
    """Every frame, every n-th of a very long source, or keyframes where packets were read."""
    changes: Rows
    """What changes from frame to frame; a row a frame, or a row a thumbnail where packets were
    read."""
    bars: Crop
    """What black bars leave of the displayed picture."""
    tags: dict[str, str] = field(default_factory=dict)
    """Title, description and the like, by lower-case name."""
    validated_by: Literal["full", "packets"] = "full"
    """Whether every frame was decoded, or every packet read."""
    made: EncodedClips | None = None
    """Clips that were encoded in the same pass."""

    @property
    def num_frames(self) -> int:
        """Counted frames."""
        return len(self.pts)

    @property
    def is_vfr(self) -> bool:
        """Whether the time between frames varies by more than rounding (and 2 %)."""
        gaps = np.diff(self.pts)
        return len(gaps) > 1 and bool(gaps.max() - gaps.min() > max(2, 0.02 * gaps.max()))

    @property
    def middle_thumb(self) -> Frames:
        """The thumbnail that lies nearest to the middle, RGB [THUMB_PX, THUMB_PX, 3]."""
        away = np.abs(np.asarray(self.thumb_frames) - self.num_frames // 2)
        middle: Frames = self.thumbs[int(away.argmin())]
        return middle

    @property
    def whole(self) -> Crop:
        """The displayed picture."""
        return Crop(0, 0, self.header.width, self.header.height)

    def seconds(self, pts: int) -> float:
        """Return a time in seconds."""
        return float(pts * self.header.time_base)

    def stop(self, span: Span) -> int:
        """Return when a span's last frame ends."""
        return self.pts[span.end] if span.end < self.num_frames else self.end_pts


def perceptual_hash(thumb: Frames) -> str:
    """Return 64 bits, in hexadecimal, that differ little between similar pictures.

    The signs of the lowest 8x8 cosine coefficients of the brightness against their median.
    """
    grey: npt.NDArray[np.float64] = thumb.astype(np.float64).mean(axis=2)
    index = np.arange(THUMB_PX)
    basis = np.cos(np.pi * (2 * index[None] + 1) * index[:8, None] / (2 * THUMB_PX))
    low = (basis @ grey @ basis.T).round(3).ravel()
    bits = low > np.median(low)
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"
