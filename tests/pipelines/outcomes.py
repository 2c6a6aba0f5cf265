"""What becomes of a file: through what the ingest calls, to what readers see."""

import numpy as np
import pytest

from infra.stills import VideoError
from infra.video import decode
from pipelines.ingest_config import AcceptSettings, CutSettings
from pipelines.steps.cut import cut
from pipelines.steps.scan import scan
from pipelines.steps.shots import spans

ACCEPT = AcceptSettings()
AUTO = CutSettings()
ENCODED = CutSettings(encode="transcode", crf=10)


def clips_of(data, cutting=AUTO, accept=ACCEPT):
    """The clips of a file, as the ingest makes them."""
    found = scan(data, accept, cutting)
    least = 1 if found.header.kind == "image" else accept.min_frames
    laid = [span for span in spans(found, cutting) if span.end - span.start >= least]
    if not laid:
        raise VideoError("too_short", f"{found.num_frames} frames")
    return list(cut(data, found, laid, cutting, accept.limits()))


def shown(data, cutting=AUTO, accept=ACCEPT):
    """All frames of a file's clips as readers see them, and the clips."""
    clips = clips_of(data, cutting, accept)
    frames = [decode(clip.data, crop=clip.crop).frames for clip in clips]
    for clip, pixels in zip(clips, frames, strict=True):
        assert len(pixels) == clip.found.num_frames == clip.span.end - clip.span.start
        assert pixels.shape[1:3] == (clip.crop.h, clip.crop.w)
    return np.concatenate(frames), clips


def reason(data, accept=ACCEPT, cutting=AUTO):
    with pytest.raises(VideoError) as caught:
        clips_of(data, cutting, accept)
    return caught.value.reason


def error(frames, wanted):
    return np.abs(frames.astype(int) - wanted).mean()


BOTH = pytest.mark.parametrize("cutting", [AUTO, ENCODED], ids=["kept", "encoded"])
