"""Some frames of a clip, without decoding the rest of it.

When each frame is shown is read from the packets; then decoding starts at the last keyframe before
the first frame that is wanted and stops at the last one. Frames that nothing refers to are passed
over by the decoder unless they are wanted. The pixels are those of a full decode. Where packets do
not say what the frames will be (no times, hidden frames, edit lists), the clip is decoded whole.

    with opened(data, View(height=72, width=128)) as film:
        pixels = film.frames(np.array([40, 44, 48]))
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter
from PIL import Image

from infra import video
from infra.stills import Frames, Limits, Source, VideoError

Numbers = npt.NDArray[np.int64]

# Decoders that heed `skip_frame` anew for every packet; dav1d keeps what it was opened with.
_SKIPPING = ("h264", "hevc")


@dataclass(frozen=True)
class View:
    """How frames are shown: the crop, scaled until it just covers `height` x `width` pixels."""

    height: int
    width: int
    crop: Mapping[str, int] | None = None
    """Box x, y, w, h of the upright frame, in pixels; all of it by default."""

    def shown(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the box x, y, w, h that is shown of an upright frame of that size."""
        if not self.crop or not self.crop["w"] or not self.crop["h"]:
            return 0, 0, width, height
        left, top = min(max(0, self.crop["x"]), width - 1), min(max(0, self.crop["y"]), height - 1)
        return left, top, min(self.crop["w"], width - left), min(self.crop["h"], height - top)

    def scaled(self, width: int, height: int) -> tuple[tuple[int, int], tuple[slice, slice]]:
        """Return the size (w, h) to scale an upright frame to, and what to cut from that."""
        left, top, cut_w, cut_h = self.shown(width, height)
        scale = max(self.height / cut_h, self.width / cut_w)
        small_w = max(self.width, round(cut_w * scale))
        small_h = max(self.height, round(cut_h * scale))
        full_w, full_h = max(small_w, round(width * scale)), max(small_h, round(height * scale))
        x, y = min(round(left * scale), full_w - small_w), min(round(top * scale), full_h - small_h)
        return (full_w, full_h), (slice(y, y + small_h), slice(x, x + small_w))


class Film:
    """An open video: when its frames are shown, and any of them as they are asked for."""

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, view: View
    ) -> None:
        """Read the packets; decode nothing unless they do not tell when frames are shown."""
        self._stream, self._view = stream, view
        self._scaler, self._upright = VideoReformatter(), video.Upright(stream)
        self._packets = list(container.demux(stream))
        self._coded = (0, 0)
        self.shown_hw = (0, 0)
        """Height and width of what is shown, before it is scaled; known with the first frame."""
        self._whole: list[Frames] = []
        self._whole_s = np.empty(0)
        pts = _display_times(self._packets)
        self._pts = [] if pts is None else pts
        if pts is None:
            self._decode_all()
            self.times_s = self._whole_s
        else:
            base = float(stream.time_base or 1)
            self.times_s = (np.asarray(pts, np.float64) - pts[0]) * base

    def frames(self, chosen: Numbers) -> Frames:
        """Return the frames of these numbers, [n, h, w, 3]; numbers may repeat.

        Raises:
            VideoError: A frame that is wanted, or that others need, is damaged.
        """
        if not self._whole:
            found = self._decode({self._pts[number] for number in chosen})
            if found is not None:
                return np.stack([found[self._pts[number]] for number in chosen])
            self._decode_all()
        chosen = nearest(self._whole_s, self.times_s[chosen])
        return np.stack([self._whole[number] for number in chosen])

    def _decode(self, wanted: set[int]) -> dict[int, Frames] | None:
        """Return the frames of these times, or None where they are not what packets promised."""
        context = self._stream.codec_context
        context.flush_buffers()
        skips = context.codec.name in _SKIPPING
        found: dict[int, Frames] = {}
        for packet in self._packets[self._start(min(wanted)) :]:
            if skips:
                free = packet.pts is not None and packet.pts not in wanted
                context.skip_frame = "NONREF" if free else "DEFAULT"
            for frame in packet.decode():
                if frame.pts in wanted:
                    if frame.is_corrupt:
                        return None
                    found[frame.pts] = self._shown(frame)
            if len(found) == len(wanted):
                return found
        return None

    def _start(self, first: int) -> int:
        """Return the number of the packet to begin with."""
        keys = [
            (packet.pts, number)
            for number, packet in enumerate(self._packets)
            if packet.is_keyframe and packet.pts is not None and packet.pts <= first
        ]
        return max(keys)[1]

    def _decode_all(self) -> None:
        """Decode every frame, as `video.decode` does, and keep what is shown and when."""
        context = self._stream.codec_context
        context.flush_buffers()
        if context.codec.name in _SKIPPING:
            context.skip_frame = "DEFAULT"
        whole: list[Frames] = []
        times: list[float] = []
        for frame in video.decoded_packets(self._packets, self._stream):
            if frame.is_corrupt:
                raise VideoError("corrupt", f"frame {len(times)} is damaged")
            whole.append(self._shown(frame))
            times.append(video.seconds(frame, self._stream, len(times)))
        if not times:
            raise VideoError("no_frames", "no frame could be decoded")
        self._whole, self._whole_s = whole, np.asarray(times, np.float64) - times[0]

    def _shown(self, frame: av.VideoFrame) -> Frames:
        """Return a frame upright, scaled and cut to the view."""
        if self._coded not in ((0, 0), (frame.width, frame.height)):
            raise VideoError("size_changes", "the frame size changes inside the stream")
        self._coded = (frame.width, frame.height)
        turns = round(frame.rotation / 90) % 4
        width = max(1, round(frame.width * Fraction(self._stream.sample_aspect_ratio or 1)))
        upright = (frame.height, width) if turns % 2 else (width, frame.height)
        self.shown_hw = self._view.shown(*upright)[:1:-1]
        size, cut = self._view.scaled(*upright)
        if video.is_layered(frame) or frame.interlaced_frame:
            return _resized(self._upright(frame), size)[cut]
        pixels = self._scaler.reformat(
            frame,
            *(size[::-1] if turns % 2 else size),
            format="rgb24",
            interpolation="AREA" if size[1] < upright[1] else "BICUBIC",
            threads=1,
        ).to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, turns)[cut], dtype=np.uint8)


@contextlib.contextmanager
def opened(data: Source, view: View, limits: Limits | None = None) -> Iterator[Film]:
    """Open a video; faults inside the block become VideoErrors.

    Raises:
        VideoError: The file is broken or beyond the limits.
    """
    with video.opened(data, limits) as (container, stream):
        yield Film(container, stream, view)


def still(data: Source, view: View, limits: Limits | None = None) -> tuple[Frames, tuple[int, int]]:
    """Return an image, or a video's first frame, scaled and cut to the view [h, w, 3].

    With it comes the height and width of what is shown before it is scaled.

    Raises:
        VideoError: The file is broken or beyond the limits.
    """
    pixels = video.decode_image(data, limits)
    width, height = pixels.shape[1], pixels.shape[0]
    size, cut = view.scaled(width, height)
    return _resized(pixels, size)[cut], view.shown(width, height)[:1:-1]


def nearest(times_s: npt.NDArray[np.float64], wanted_s: npt.NDArray[np.float64]) -> Numbers:
    """Return the number of the frame whose time is nearest to each wanted one."""
    right = np.clip(np.searchsorted(times_s, wanted_s), 1, max(1, len(times_s) - 1))
    left = right - 1
    right = np.minimum(right, len(times_s) - 1)
    earlier = wanted_s - times_s[left] <= times_s[right] - wanted_s
    return np.where(earlier, left, right).astype(np.int64)


def _display_times(packets: "list[av.Packet[av.VideoStream]]") -> list[int] | None:
    """Return the times of the frames that a decoder will give, sorted; None where unsure."""
    first = next((number for number, packet in enumerate(packets) if packet.is_keyframe), None)
    if first is None:
        return None
    times = []
    for packet in packets[first:]:
        if packet.size == 0:  # the one that empties the decoder
            continue
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            return None
        times.append(packet.pts)
    shown = sorted(time for time in times if time >= times[0])
    return shown if len(set(shown)) == len(shown) else None


def _resized(pixels: Frames, size: tuple[int, int]) -> Frames:
    how = Image.Resampling.BOX if size[1] < pixels.shape[0] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize(size, how), dtype=np.uint8)
