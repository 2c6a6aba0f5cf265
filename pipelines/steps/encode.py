"""Encode the pictures of one span."""

from collections.abc import Iterable, Sequence
from fractions import Fraction

import av

from infra.encoding import Codec, Writer
from infra.plain import Plain
from infra.stills import Header
from pipelines.ingest_config import CutSettings

_CLOCK_HZ = 90_000
_ENCODERS: dict[str, Codec] = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}


def encode(
    pictures: Iterable[av.VideoFrame],
    pts: Sequence[int],
    plain: Plain,
    header: Header,
    settings: CutSettings,
) -> bytes:
    """Return a span's pictures as an MP4 file that begins at zero.

    Args:
        pictures: Plain pictures, one for each of `pts`.
        pts: When they are shown, in units of the source's clock.
        plain: What made the pictures.
        header: The source's header.
        settings: Codec and quality.
    """
    codec = _ENCODERS[settings.codec]
    writer = Writer(
        plain.size,
        header.fps or Fraction(25),
        codec=codec,
        crf=settings.crf,
        look=plain.look,
        clock=Fraction(1, _CLOCK_HZ),
        bulk=True,
    )
    try:
        last = -1
        for picture, shown in zip(pictures, pts, strict=True):
            last = max(last + 1, round((shown - pts[0]) * header.time_base * _CLOCK_HZ))
            writer.add(picture, last)
        return writer.finish()
    finally:
        writer.close()
