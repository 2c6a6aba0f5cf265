"""Look at a source once and say what it holds, or why it is refused.

By default every frame is decoded, with one thread, since damage shows nowhere else. A source that
must be encoded anyway is encoded in the same pass. With `accept.validate_by: packets` only packets
are read, and some keyframes decoded.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from infra.stills import Crop, VideoError, head, image_tags, is_image, load_image, probe_image
from infra.video import decoded, opened
from pipelines.ingest_config import AcceptSettings, CutSettings
from pipelines.steps.found import THUMB_PX
from pipelines.steps.found import Scan as Scan
from pipelines.steps.found import perceptual_hash as perceptual_hash
from pipelines.steps.onepass import NotInOnePassError, scan_and_encode
from pipelines.steps.packets import NotByPacketsError, scan_packets
from pipelines.steps.watch import Watch


def scan(data: bytes | Path, accept: AcceptSettings, cutting: CutSettings | None = None) -> Scan:
    """Return what a video or image holds.

    Args:
        data: The file's bytes, or a local path.
        accept: What is refused, and how damage is looked for.
        cutting: How it will be cut; told, clips that have to be encoded are encoded on the way.

    Raises:
        VideoError: It is broken, beyond the limits, or of a kind that is refused.
    """
    if is_image(head(data)):
        return _scan_image(data, accept)
    if cutting and cutting.encode == "auto" and accept.validate_by == "packets":
        try:
            return scan_packets(data, accept, find_bars=cutting.crop_bars)
        except NotByPacketsError:
            return _scan_frames(data, accept, cutting)
    try:
        return scan_and_encode(data, accept, cutting) if cutting else _scan_frames(data, accept)
    except NotInOnePassError:
        return _scan_frames(data, accept, cutting)


def _scan_frames(
    data: bytes | Path, accept: AcceptSettings, cutting: CutSettings | None = None
) -> Scan:
    with opened(data, accept.limits()) as (container, stream):
        find_bars = cutting is None or cutting.crop_bars
        watch = Watch(container, stream, accept, find_bars=find_bars)
        for frame in decoded(container, stream):
            watch.add(frame)
        watch.finish()
        return watch.scan()


def _scan_image(data: bytes | Path, accept: AcceptSettings) -> Scan:
    limits = accept.limits()
    header = probe_image(data, limits)
    picture = load_image(data, limits)
    if not picture.size:
        raise VideoError("corrupt", "the picture has no pixels")
    thumb = np.asarray(Image.fromarray(picture).resize((THUMB_PX, THUMB_PX)), np.uint8)[None]
    return Scan(
        header=header,
        first_pts=0,
        pts=[0],
        end_pts=0,
        keyframes=[0],
        num_skipped=0,
        thumbs=thumb,
        thumb_frames=[0],
        changes=np.zeros((1, 5), np.float32),
        bars=Crop(0, 0, header.width, header.height),
        tags=image_tags(data, limits),
    )
