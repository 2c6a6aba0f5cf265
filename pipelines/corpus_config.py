"""Settings of the demo's rendered corpus; importing them imports no Ray."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from infra.config import Settings
from train.metrics import shapes


class CorpusSettings(Settings):
    """What the rendered source folder holds."""

    num_videos: PositiveInt = 1080
    """Video files that are whole and show one shot."""
    num_images: NonNegativeInt = 360
    """Still images, half PNG and half JPEG."""
    num_faulty: NonNegativeInt = 16
    """Files that are broken on purpose, the kinds in turns."""
    num_duplicates: NonNegativeInt = 6
    """Second copies of videos, under another name in the other partition."""
    num_cuts: NonNegativeInt = 4
    """Video files that show two shots with a hard cut between them."""
    captioned_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the clips and stills that come with a caption, as a text file of the same stem."""
    webm_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the videos that are WebM with VP9; the others are MP4 with H.264."""
    width: PositiveInt = 64
    """Pixels; even."""
    height: PositiveInt = 48
    """Pixels; even."""
    num_frames: PositiveInt = 16
    """Frames of a shot."""
    fps: PositiveFloat = 8.0
    """Frames a second."""
    travel_slowly: float = Field(default=shapes.TRAVEL["slowly"], gt=0, le=1)
    """Share of the free path that a slow object crosses in a shot."""
    travel_quickly: float = Field(default=shapes.TRAVEL["quickly"], gt=0, le=1)
    """Share of the free path that a quick object crosses in a shot."""
