"""Settings of the ingest: what is accepted, how it is cut, how work is grouped."""

import hashlib

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from infra.config import Settings
from infra.stills import Limits


class AcceptSettings(Settings):
    """What is refused, before memory is taken for it where a header tells."""

    suffixes: tuple[str, ...] = (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "ogv", "wmv"),
        *("gif", "png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "avif"),
    )
    """Endings of media files, in lower case; other files are not looked at."""
    max_source_mib: PositiveInt = 4096
    """Largest source file, MiB."""
    max_frame_px: PositiveInt = 7680 * 4320
    """Largest frame, pixels."""
    max_duration_s: PositiveFloat = 4 * 3600.0
    """Longest source, seconds."""
    max_fps: PositiveFloat = 1000.0
    """Highest frame rate, frames per second."""
    min_frames: PositiveInt = 2
    """Shortest clip of a video, frames."""

    def limits(self) -> Limits:
        """Return the bounds that decoding keeps."""
        return Limits(self.max_frame_px, self.max_duration_s, self.max_fps)


class CutSettings(Settings):
    """How a source becomes clips; part of every clip's identity."""

    window_s: PositiveFloat = 10.0
    """Longest clip, seconds; a longer shot is split evenly."""
    shot_change: float = Field(default=0.04, gt=0, le=1)
    """Shift of the colour histogram that a cut makes, as a share of the full range."""
    shot_contrast: float = Field(default=3.0, ge=1)
    """How many times the motion around it the change at a cut is."""
    crf: int = Field(default=18, ge=0, le=51)
    """H.264 quality of clips that must be encoded again (0 best)."""


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
    """Share of a partition's files that may be refused before the run fails."""
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
        words = f"cut-2 {self.accept.min_frames} {self.cut.model_dump_json()}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    @property
    def ingest_id(self) -> str:
        """Identity of what decides over a source: under another one, what was refused is tried."""
        words = f"ingest-1 {self.transform_id} {self.accept.model_dump_json()}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]
