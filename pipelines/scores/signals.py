"""Signal scores: what can be measured of a clip without a model.

Over time (from the thumbnails that a scan keeps of every frame):

- `motion`: how far what is seen moves, in picture sides a second. The change of a picture over
  its slope is a displacement (normal flow), so neither contrast nor frame rate counts, and
  neither do cuts, fades, flashes and the rounding of a grey level. A small thing that moves before
  a busy background counts by its share of the edges; above about one side a second it saturates.
- `static_share`: share of the time in which nothing moves.
- `flicker`: mean jump of the whole picture's brightness to and fro, share of the full range; a
  slow fade has none.
- `brightness`, `contrast`: mean and spread (standard deviation) of brightness over the picture.
- `detail`: the spread in the middle frame alone, which the perceptual hash is made of.

Over space (from at most four key frames, at 640 px):

- `sharpness`: spread of the Laplacian, share of the full range.
- `text_area`: share of the picture under lines of text (see `text_area`).
- `bar_share`: share of the picture that is black border in all of those frames.
"""

import contextlib
from dataclasses import dataclass

import av.error
import cv2
import numpy as np
import numpy.typing as npt

from infra.stills import Frames, Limits, Source, VideoError, load_image, shrunk
from infra.video import opened, upright
from pipelines.scores.text_area import text_share
from pipelines.scores.versions import VERSIONS as VERSIONS
from pipelines.steps.cut import CutClip
from pipelines.steps.found import Scan

Grey = npt.NDArray[np.float32]

_MAX_SIDE_PX = 640
_NUM_KEY_FRAMES = 4
_STEP_S = 0.1  # motion is measured over steps of about this; over less, rounding would drown it
_MAX_GAP_S = 0.25  # thumbnails further apart, with frames between, say nothing of motion
_GREY_LEVEL = 0.75 / 255  # what rounding and a codec change without anything moving
_MIN_SPREAD = 0.02  # of the full range; below it a picture is flat
_MIN_SLOPE = 0.05  # mean change between thumbnail pixels, in spreads
_STILL = 0.004  # mean change, in spreads and beyond a grey level, below which nothing moves
_CUT = 0.1  # mean change that is a cut where it is many times what is usual
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BLACK = 0.1  # of the full range


@dataclass(frozen=True)
class _Steps:
    """From picture to picture: change, displacement, time between, and whether it is a cut."""

    change: npt.NDArray[np.float64]
    moved: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    cuts: npt.NDArray[np.bool_]


def measured(clip: CutClip) -> dict[str, float]:
    """Return the signal scores of a clip by name; those that its scan cannot tell are left out.

    Raises:
        VideoError: Its key frames cannot be decoded.
    """
    return measure(clip.data, clip.found)


def measure(data: Source, found: Scan, limits: Limits | None = None) -> dict[str, float]:
    """Return the signal scores of an encoded clip and what a scan of it found.

    Raises:
        VideoError: Its key frames cannot be decoded.
    """
    cv2.setNumThreads(1)  # scale by processes
    thumbs = brightness_of(found.thumbs)
    scores = {
        "brightness": float(thumbs.mean()),
        "contrast": float(thumbs.std(axis=(1, 2)).mean()),
        "detail": float(brightness_of(found.middle_thumb).std()),
    }
    scores |= over_space(key_frames(data, found, limits or Limits()))
    times_s = thumb_times(found)
    if found.header.kind == "video" and times_s is not None:
        scores |= over_time(found.thumbs, times_s)
    return scores


def over_time(thumbs: Frames, times_s: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return motion, static_share and flicker of thumbnails RGB [T,h,w,3] shown at `times_s`.

    A single frame does not move.
    """
    if len(thumbs) < 2:
        return {"motion": 0.0, "static_share": 1.0, "flicker": 0.0}
    steps = _steps(np.asarray(thumbs / 255, np.float32), times_s)
    shown = ~steps.cuts
    if not shown.any():
        shown[:] = True
    seconds = float(steps.seconds[shown].sum())
    still = steps.change < _STILL
    return {
        "motion": float(steps.moved[shown].sum()) / max(seconds, 1e-6),
        "static_share": float(steps.seconds[still].sum() / max(steps.seconds.sum(), 1e-6)),
        "flicker": _flicker(brightness_of(thumbs)),
    }


def over_space(frames: list[Frames]) -> dict[str, float]:
    """Return sharpness, text_area and bar_share of a clip's key frames, RGB [H,W,3]."""
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    spreads = [float(cv2.Laplacian(grey, cv2.CV_32F).std()) / 255 for grey in greys]
    return {
        "sharpness": float(np.median(spreads)),
        "text_area": float(np.median([text_share(np.asarray(grey)) for grey in greys])),
        "bar_share": _bar_share([np.asarray(grey) for grey in greys]),
    }


def key_frames(data: Source, found: Scan, limits: Limits) -> list[Frames]:
    """Return up to four key frames, evenly spread over the clip, their longer side 640 px at most.

    A clip with a single key frame is judged by it.
    """
    if found.header.kind == "image":
        return [shrunk(load_image(data, limits), _MAX_SIDE_PX)]
    chosen = np.linspace(0, len(found.keyframes) - 1, _NUM_KEY_FRAMES).round().astype(int)
    wanted = [found.first_pts + found.pts[found.keyframes[index]] for index in np.unique(chosen)]
    frames = []
    with opened(data, limits) as (container, stream):
        stream.codec_context.skip_frame = "NONKEY"
        for pts in wanted:
            with contextlib.suppress(av.error.FFmpegError):  # without an index: as they come
                container.seek(int(pts), stream=stream)
            frame = next(container.decode(stream), None)
            if frame is not None:
                frames.append(upright(frame, stream, _MAX_SIDE_PX))
    if not frames:
        raise VideoError("no_frames", "no key frame could be decoded")
    return frames


def brightness_of(frames: Frames) -> Grey:
    """Return the brightness of RGB frames [T,H,W,3], 0 to 1, [T,H,W]."""
    return np.asarray(frames.astype(np.float32) @ _LUMA / 255, np.float32)


def thumb_times(found: Scan) -> npt.NDArray[np.float64] | None:
    """Return when each thumbnail is shown, seconds; None where too few were kept to see motion.

    A scan keeps one of every frame, of every so many of a long source, or of key frames only.
    """
    times = np.asarray([found.seconds(found.pts[at]) for at in found.thumb_frames], np.float64)
    gaps = np.diff(times, append=found.seconds(found.end_pts))
    if len(times) < found.num_frames and float(gaps.max()) > _MAX_GAP_S:
        return None
    return times


def _steps(thumbs: Grey, times_s: npt.NDArray[np.float64]) -> _Steps:
    picked = _spaced(times_s)
    shown, seconds = thumbs[picked], np.diff(times_s[picked])
    level = shown.mean(axis=(1, 2, 3), keepdims=True)
    spread = np.maximum(shown.std(axis=(1, 2, 3), keepdims=True), _MIN_SPREAD)
    like = (shown - level) / spread  # a flash or a fade changes level and spread, and moves nothing
    raw = np.abs(np.diff(like, axis=0))
    change = np.maximum(raw - _GREY_LEVEL / spread[1:], 0.0).mean(axis=(1, 2, 3), dtype=np.float64)
    slope = (_slope(like, 1) + _slope(like, 2)) / 2
    slope = np.maximum((slope[1:] + slope[:-1]) / 2, _MIN_SLOPE)
    cuts = _cuts(np.abs(np.diff(shown, axis=0)).mean(axis=(1, 2, 3), dtype=np.float64))
    return _Steps(change, change / slope / thumbs.shape[1], np.maximum(seconds, 1e-6), cuts)


def _slope(pictures: Grey, axis: int) -> npt.NDArray[np.float64]:
    """Return the mean change from one pixel to the next along an axis, for each picture."""
    found: npt.NDArray[np.float64] = np.abs(np.diff(pictures, axis=axis)).mean(
        axis=(1, 2, 3), dtype=np.float64
    )
    return found


def _spaced(times_s: npt.NDArray[np.float64]) -> list[int]:
    """Return indices of pictures that lie about `_STEP_S` apart, the first among them."""
    picked = [0]
    for index in range(1, len(times_s)):
        if times_s[index] - times_s[picked[-1]] >= _STEP_S * 0.99:
            picked.append(index)
    if len(picked) < 2:
        picked.append(len(times_s) - 1)
    return picked


def _cuts(change: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which steps are cuts: a large change, many times what is usual in the clip."""
    if len(change) < 3:
        return np.zeros(len(change), np.bool_)
    usual = float(np.median(change))
    found: npt.NDArray[np.bool_] = (change > _CUT) & (change > 4 * usual)
    return found


def _flicker(thumbs: Grey) -> float:
    """Return how far brightness jumps to and fro: up then down, or down then up, in two frames."""
    steps = np.diff(thumbs.mean(axis=(1, 2), dtype=np.float64))
    if len(steps) < 2:
        return 0.0
    back = steps[1:] * steps[:-1] < 0
    jumps = np.minimum(np.abs(steps[1:]), np.abs(steps[:-1])) * back
    return float(jumps.mean())


def _bar_share(greys: list[npt.NDArray[np.uint8]]) -> float:
    """Return the share of border rows and columns that are black in all pictures.

    A picture that is black as a whole has no border. Where a stream changes its size, pictures of
    the first one's size are compared.
    """
    alike = [grey for grey in greys if grey.shape == greys[0].shape]
    bright = np.max(np.stack(alike), axis=0) > _BLACK * 255
    rows, columns = bright.mean(axis=1) > 0.02, bright.mean(axis=0) > 0.02
    if not rows.any() or not columns.any():
        return 0.0
    height, width = _extent(rows), _extent(columns)
    return 1.0 - float(height * width) / float(bright.size)


def _extent(used: npt.NDArray[np.bool_]) -> int:
    """Return the distance from the first to the last that is used, both included."""
    return int(len(used) - np.argmax(used) - np.argmax(used[::-1]))
