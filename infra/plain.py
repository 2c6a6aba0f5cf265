"""Decoded frames as encoders want them: YUV 4:2:0, upright, square pixels, even sides, whole.

Frames stay YUV where they can: one scaling, no way through RGB. Alpha, palettes and HDR go
through `Upright`, which knows white backgrounds and tone mapping. Turning and cropping come
after scaling, when there are few pixels left.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import av.error
import av.filter
import numpy as np
from av.video.reformatter import VideoReformatter

from infra.encoding import Look
from infra.stills import BT601, Crop
from infra.video import Upright, displayed_size, is_layered

_SRGB, _BT709 = 13, 1
_TURNS = {1: ("transpose=cclock",), 2: ("hflip", "vflip"), 3: ("transpose=clock",)}


class Plain:
    """Turns the frames of one stream into plain pictures of one size."""

    def __init__(
        self,
        stream: av.VideoStream,
        first: av.VideoFrame,
        height: int = 0,
        crop: Crop | None = None,
        *,
        deinterlace: bool = False,
    ) -> None:
        """Learn the stream from its first frame.

        Args:
            stream: What is decoded.
            first: Its first frame.
            height: Scale down to this height, pixels; 0 keeps the size.
            crop: The box of the displayed picture that is kept.
            deinterlace: Whether a later frame is interlaced, if the first is not.
        """
        shown = displayed_size(first, Fraction(stream.sample_aspect_ratio or 1))
        box = crop or Crop(0, 0, *shown)
        ratio = min(1.0, height / box.h) if height else 1.0
        self.size = (_even(box.w * ratio), _even(box.h * ratio))
        """Width and height of the pictures, pixels."""
        self._full = (max(1, round(shown[0] * ratio)), max(1, round(shown[1] * ratio)))
        self._at = (round(box.x * ratio) // 2 * 2, round(box.y * ratio) // 2 * 2)
        if crop is None and ratio < 1:
            self._full = self.size  # nothing to cut off
        self._turn = round(first.rotation / 90) % 4
        self._interlaced = deinterlace or bool(first.interlaced_frame)
        self._layered = is_layered(first)
        side = max(self.size) if ratio < 1 else None
        self._upright = Upright(stream, side, crop)
        self._converter = VideoReformatter()
        self._geometry: av.filter.Graph | None = None
        self.look = self._look(first)
        """How the pictures' numbers are to be read."""

    def pictures(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Yield a picture for each frame, in order; deinterlaced ones come one frame later."""
        whole = _deinterlaced(frames) if self._interlaced else frames
        for frame in whole:
            yield self._layers(frame) if self._layered else self._planes(frame)

    def _look(self, first: av.VideoFrame) -> Look:
        if self._layered:
            return Look(BT601, _BT709, _SRGB)
        if first.format.is_rgb or first.colorspace in (0, 2):
            return Look(BT601, first.color_primaries, first.color_trc)
        return Look(first.colorspace, first.color_primaries, first.color_trc)

    def _planes(self, frame: av.VideoFrame) -> av.VideoFrame:
        width, height = self._full if self._turn % 2 == 0 else self._full[::-1]
        shown = self._converter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            src_colorspace=None if frame.format.is_rgb else self.look.matrix,
            dst_colorspace=self.look.matrix,
            dst_color_range="MPEG",
            interpolation="AREA" if height < frame.height else "BICUBIC",
            threads=1,
        )
        if not self._turn and self._full == self.size:
            return shown
        return self._turned(shown)

    def _turned(self, frame: av.VideoFrame) -> av.VideoFrame:
        if self._geometry is None:
            box = f"crop={self.size[0]}:{self.size[1]}:{self._at[0]}:{self._at[1]}:exact=1"
            self._geometry = _graph(frame, [*_TURNS.get(self._turn, ()), box])
        self._geometry.vpush(frame)
        return self._geometry.vpull()

    def _layers(self, frame: av.VideoFrame) -> av.VideoFrame:
        pixels = self._upright(frame)
        width, height = self.size
        if abs(pixels.shape[1] - width) <= 1 and abs(pixels.shape[0] - height) <= 1:
            width, height = min(width, pixels.shape[1]), min(height, pixels.shape[0])
            pixels = pixels[:height, :width]
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return rgb.reformat(*self.size, format="yuv420p", dst_colorspace=BT601)


def _deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yield a whole frame for each frame of two fields (bwdif: Weston's filter with motion)."""
    graph: av.filter.Graph | None = None
    for frame in frames:
        graph = graph or _graph(frame, ["bwdif=mode=send_frame:deint=interlaced"])
        graph.vpush(frame)
        yield from _ready(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _ready(graph)


def _graph(frame: av.VideoFrame, filters: list[str]) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    base = frame.time_base or Fraction(1, 90_000)
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=base
        )
    ]
    for text in filters:
        name, _, arguments = text.partition("=")
        nodes.append(graph.add(name, arguments or None))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def _ready(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _even(side_px: float) -> int:
    return max(2, round(side_px) // 2 * 2)
