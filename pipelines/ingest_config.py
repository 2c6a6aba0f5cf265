"""Settings of the ingest: what is accepted, how it is cut, how work is grouped."""

import hashlib
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from infra.config import Settings
from infra.stills import Limits

_MAX_H26X_CRF = 51


class AcceptSettings(Settings):
    """What is refused, before memory is taken for it where a header tells."""

    suffixes: tuple[str, ...] = (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "ogv", "wmv"),
        *("gif", "png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "avif"),
    )
    """Endings of media files, in lower case; other files are not looked at, nor are those whose
    name, or folder's name, begins with a dot, but for those that a list names."""
    max_source_mib: PositiveInt = 4096
    """Largest source file, MiB."""
    max_frame_px: PositiveInt = 7680 * 4320
    """Largest frame, pixels."""
    max_duration_s: PositiveFloat = 4 * 3600.0
    """Longest source, seconds."""
    max_fps: PositiveFloat = 1000.0
    """Highest frame rate, frames per second."""
    max_frames: PositiveInt = 1_000_000
    """Most frames of a source; counted, whatever its header says."""
    min_frames: PositiveInt = 2
    """Shortest clip of a video, frames."""
    validate_by: Literal["full", "packets"] = "full"
    """How damage is looked for where nothing has to be encoded anyway: `full` decodes every
    frame; `packets` reads every packet and decodes keyframes `sample_s` apart. Packets tell what
    is cut off, empty or out of order, not what is damaged inside a frame; and shots begin at
    keyframes only."""
    sample_s: NonNegativeFloat = 5.0
    """Least time between keyframes that are decoded with `packets`, seconds."""
    hdr: Literal["refuse", "tonemap"] = "refuse"
    """What becomes of PQ and HLG video; mapped to the usual range it is encoded again."""
    interlaced: Literal["refuse", "deinterlace"] = "refuse"
    """What becomes of interlaced video; deinterlaced (bwdif) it is encoded again."""

    def limits(self) -> Limits:
        """Return the bounds that decoding keeps."""
        return Limits(
            self.max_frame_px, self.max_duration_s, self.max_fps, max_frames=self.max_frames
        )


class CutSettings(Settings):
    """How a source becomes clips; part of every clip's identity."""

    window_s: PositiveFloat = 10.0
    """Longest clip, seconds. A longer shot gives windows of this length and an even rest; with
    `encode: auto` they begin at keyframes where there are some."""
    shot_change: float = Field(default=0.04, gt=0, le=1)
    """Shift of the colour histogram that a cut makes, as a share of the full range."""
    shot_contrast: float = Field(default=3.0, ge=1)
    """How many times the motion around it the change at a cut is."""
    fade_level: int = Field(default=12, ge=0, le=255)
    """Mean brightness below which a picture has faded out; the next shot begins where it comes
    back. 0 knows no fades."""
    crop_bars: bool = False
    """Cut off black bars: in pixels where a clip is encoded, as a box for readers elsewhere."""
    encode: Literal["auto", "transcode"] = "auto"
    """Whether clips keep their source's packets where possible, or are all encoded again."""
    codec: Literal["h264", "hevc", "vp9", "av1"] = "h264"
    """What encoded clips are encoded with, in MP4."""
    height: NonNegativeInt = 0
    """Height of encoded clips, pixels; smaller ones stay. 0 keeps every size."""
    crf: int = Field(default=18, ge=0, le=63)
    """Quality of encoded clips, 0 best; up to 51 for h264 and hevc."""

    @model_validator(mode="after")
    def _codec_knows_crf(self) -> Self:
        if self.codec in ("h264", "hevc") and self.crf > _MAX_H26X_CRF:
            raise ValueError(f"crf ({self.crf}) must be at most {_MAX_H26X_CRF} for {self.codec}")
        return self


class TaskSettings(Settings):
    """What one task of the ingest reserves and how many run at once."""

    cpus: PositiveFloat = 1.0
    """CPU slots of a task; decoding uses one thread."""
    memory_mib: NonNegativeInt = 0
    """Memory that a task reserves where it decodes, MiB; 0 reserves none."""
    max_tasks: NonNegativeInt = 0
    """Tasks that run at once, over the whole cluster; 0 is as many as its CPU slots hold."""


class IngestSettings(Settings):
    """Everything the ingest takes besides its sources."""

    accept: AcceptSettings = AcceptSettings()
    """What is refused."""
    cut: CutSettings = CutSettings()
    """How sources become clips."""
    tasks: TaskSettings = TaskSettings()
    """What its tasks reserve."""
    max_refused_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the files looked at that may be refused before the run fails; below 1 it fails
    also where none of them gives a clip."""
    files_per_task: PositiveInt = 128
    """Files that one task handles; their clips share a media shard: what a kill can cost a task."""
    max_shard_mib: PositiveInt = 512
    """Largest media shard, MiB; a task whose clips are more begins another."""
    clips_per_commit: PositiveInt = 1000
    """Most clips between two commits; finished tasks are committed as they come."""
    file_timeout_s: PositiveFloat = 900.0
    """Longest time for one file before its process is killed, seconds."""

    @property
    def transform_id(self) -> str:
        """Identity of the cutting: the same source cut otherwise gives other clips."""
        accept = self.accept
        words = f"cut-2 {accept.min_frames} {accept.validate_by} {self.cut.model_dump_json()}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    @property
    def ingest_id(self) -> str:
        """Identity of what decides over a source: under another one, what was refused is tried."""
        words = f"ingest-1 {self.transform_id} {self.accept.model_dump_json()}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]
