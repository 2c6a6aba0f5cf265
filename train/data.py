"""Batches for training: clips by computed order, decoded, cut in time and space.

A video is shown at one of the framerates that fit it, from a random start; an image is a video of
infinite framerate, one frame repeated. What is random about a sample comes from its own seed, so
ranks, restarts and cache never change it. A clip that cannot be read is replaced by another one,
chosen by the sample's seed, and counted.

    reader = Reader(Source(dataset_root, release_name, encoder_id), settings, geometry)
    batch = reader.batch(step, rank, num_ranks)
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from infra import video
from infra.errors import ConfigError, DataError
from infra.store import media, release
from train.config import TrainSettings
from train.model.fit import Conditioning, framerate_token, resolution_token
from train.order import Order, positions, sample_seed

log = logging.getLogger(__name__)

_ATTEMPTS = 16
_COLUMNS = (
    "clip_id", "kind", "media_file", "media_row", "media_offset", "media_length", "media_crc32c",
    "num_frames", "width", "height",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where clips, captions and text embeddings come from."""

    dataset_root: str
    release: str
    encoder_id: str


@dataclass(frozen=True)
class Geometry:
    """The size of a training clip: frames, height and width in pixels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Attributes:
        clips: Pixels in [-1, 1], [batch, 3, t, h, w]; videos first, then images.
        cond: Text, framerate and resolution of each clip; nothing is dropped yet.
        seeds: Each sample's seed for noise and dropout of the text.
        clip_ids: Which clip each sample was cut from.
        is_image: True where that clip is an image.
    """

    clips: Tensor
    cond: Conditioning
    seeds: tuple[int, ...]
    clip_ids: tuple[str, ...]
    is_image: tuple[bool, ...]


@dataclass(frozen=True)
class _Decoded:
    """Frames [n, h, w, 3] at the training size, their times in seconds, the source's size."""

    frames: Tensor
    times_s: npt.NDArray[np.float64]
    source_hw: tuple[int, int]


class Reader:
    """Reads the training split of a release."""

    def __init__(self, source: Source, settings: TrainSettings, geometry: Geometry) -> None:
        """Read the tables; no media yet.

        Raises:
            ConfigError: A batch of videos or images is asked for and the release has none.
            DataError: The release is not there, or a caption of it is not embedded.
        """
        found = release.load(source.dataset_root, source.release)
        self.digest = found.digest
        self._root = source.dataset_root
        self._settings = settings
        self._geometry = geometry
        texts = {row["clip_id"]: row["text_hash"] for row in found.captions().to_pylist()}
        self._embeddings = _embeddings(found, source.encoder_id)
        self.text_width = int(next(iter(self._embeddings.values())).shape[1])
        self._max_tokens = max(len(e) for e in self._embeddings.values())
        clips = found.clips("train").select(list(_COLUMNS)).to_pylist()
        clips = long_enough(clips, geometry.frames)
        self._streams = {
            stream: _Stream.build(stream, clips, texts, batch, settings)
            for stream, batch in (
                ("video", settings.batch_videos),
                ("image", settings.batch_images),
            )
            if batch
        }
        self._cache: OrderedDict[str, _Decoded] = OrderedDict()
        self._cached_bytes = 0
        self._bad: dict[str, str] = {}

    @property
    def source_size(self) -> dict[str, int]:
        """Median height and width of the sources, in pixels: what sampling assumes by default."""
        rows = [row for stream in self._streams.values() for row in stream.rows]
        return {
            f"source_{side}": int(np.median([row[side] for row in rows]))
            for side in ("height", "width")
        }

    @property
    def num_bad(self) -> int:
        """Clips that could not be read so far."""
        return len(self._bad)

    def batch(self, step: int, rank: int, num_ranks: int) -> Batch:
        """Return one rank's share of the global batch of a step.

        Raises:
            DataError: More clips than `max_bad_share` cannot be read.
        """
        rows, shown, clips, seeds = [], [], [], []
        for name, stream in self._streams.items():
            for position in positions(step, stream.batch, rank, num_ranks):
                seed = sample_seed(self._settings.seed, name, position)
                row, frames, fps, source_hw = self._sample(stream, position, seed)
                rows.append(row)
                shown.append((self._embeddings[row["text_hash"]], fps, source_hw))
                clips.append(frames)
                seeds.append(seed)
        pixels = torch.stack(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return Batch(
            clips=pixels.contiguous(),
            cond=self._condition(shown),
            seeds=tuple(seeds),
            clip_ids=tuple(row["clip_id"] for row in rows),
            is_image=tuple(row["kind"] == "image" for row in rows),
        )

    def _sample(
        self, stream: "_Stream", position: int, seed: int
    ) -> tuple[dict[str, Any], Tensor, float, tuple[int, int]]:
        """Return a row, its frames [t, h, w, 3], their rate and the source's size."""
        for attempt in range(_ATTEMPTS):
            index = stream.order.index(position)
            if attempt:
                index = sample_seed(seed, "substitute", attempt) % len(stream.rows)
            row = stream.rows[index]
            if row["clip_id"] in self._bad:
                continue
            try:
                decoded = self._decoded(row)
                chosen, fps = self._in_time(decoded, row["kind"], np.random.default_rng(seed))
            except (DataError, video.VideoError) as fault:
                self._count_bad(row, fault)
                continue
            return row, decoded.frames[chosen], fps, decoded.source_hw
        raise DataError(
            f"{stream.name}s: {_ATTEMPTS} clips in a row cannot be read, the last because "
            f"{next(reversed(self._bad.values()))}; check the dataset with `snapvideo dataset`"
        )

    def _in_time(
        self, decoded: _Decoded, kind: str, random: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Return which frames to show, and at which rate."""
        num_frames = self._geometry.frames
        if kind == "image":
            return torch.zeros(num_frames, dtype=torch.int64), float("inf")
        times = decoded.times_s
        fps = _framerate(times, num_frames, self._settings.reader.framerates, random)
        start = random.uniform(0.0, max(0.0, times[-1] - (num_frames - 1) / fps))
        return torch.from_numpy(_nearest(times, start + np.arange(num_frames) / fps)), fps

    def _decoded(self, row: dict[str, Any]) -> _Decoded:
        key = row["clip_id"]
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        clip = video.decode(media.read_media(self._root, row))
        frames = _resized(
            torch.from_numpy(np.array(clip.frames)), self._geometry.height, self._geometry.width
        )
        decoded = _Decoded(frames, clip.pts_s, (clip.frames.shape[1], clip.frames.shape[2]))
        self._cache[key] = decoded
        self._cached_bytes += frames.nbytes
        while self._cached_bytes > self._settings.reader.cache_mib * 2**20:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.frames.nbytes
        return decoded

    def _count_bad(self, row: dict[str, Any], fault: Exception) -> None:
        self._bad[row["clip_id"]] = str(fault)
        log.warning("clip replaced clip_id=%s reason=%s", row["clip_id"], fault)
        total = sum(len(stream.rows) for stream in self._streams.values())
        allowed = self._settings.reader.max_bad_share
        if len(self._bad) > max(1.0, allowed * total):
            raise DataError(
                f"{len(self._bad)} of {total} clips cannot be read, the last because {fault}; "
                f"reader.max_bad_share allows {allowed:.0%}: mend the dataset or raise it"
            )

    def _condition(self, shown: list[tuple[Tensor, float, tuple[int, int]]]) -> Conditioning:
        size, width = len(shown), shown[0][0].shape[1]
        text = torch.zeros(size, self._max_tokens, width)
        mask = torch.zeros(size, self._max_tokens, dtype=torch.bool)
        for i, (embedding, _, _) in enumerate(shown):
            text[i, : len(embedding)] = embedding
            mask[i, : len(embedding)] = True
        heights = torch.tensor([float(hw[0]) for _, _, hw in shown])
        widths = torch.tensor([float(hw[1]) for _, _, hw in shown])
        return Conditioning(
            text=text,
            text_mask=mask,
            drop=torch.zeros(size, dtype=torch.bool),
            framerate=framerate_token(torch.tensor([fps for _, fps, _ in shown])),
            resolution=resolution_token(heights, widths),
            resolution_known=torch.ones(size, dtype=torch.bool),
        )


@dataclass(frozen=True)
class _Stream:
    name: str
    rows: list[dict[str, Any]]
    order: Order
    batch: int

    @classmethod
    def build(
        cls,
        name: str,
        clips: list[dict[str, Any]],
        texts: dict[str, str],
        batch: int,
        settings: TrainSettings,
    ) -> "_Stream":
        rows = [c | {"text_hash": texts[c["clip_id"]]} for c in clips if c["kind"] == name]
        if not rows:
            raise ConfigError(
                f"batch_{name}s: {batch} asked for, but the release has no {name} to train on; "
                f"ingest some, or set stage1.batch_{name}s and stage2.batch_{name}s to 0"
            )
        shards = [row["media_file"] for row in rows]
        order = Order(shards, settings.seed, settings.reader.window_shards)
        return cls(name, rows, order, batch)


def long_enough(clips: list[dict[str, Any]], num_frames: int) -> list[dict[str, Any]]:
    """Return images, and videos with as many frames as are to be shown."""
    kept = [clip for clip in clips if clip["kind"] == "image" or clip["num_frames"] >= num_frames]
    if len(kept) < len(clips):
        log.warning(
            "left out, shorter than the %d frames of the model clips=%d of=%d",
            num_frames, len(clips) - len(kept), len(clips),
        )  # fmt: skip
    return kept


class Steps(torch.utils.data.Dataset[Batch]):
    """One rank's batches by step, for a DataLoader."""

    def __init__(self, reader: Reader, rank: int, num_ranks: int) -> None:
        self._reader, self._rank, self._num_ranks = reader, rank, num_ranks

    def __getitem__(self, step: int) -> Batch:
        return self._reader.batch(step, self._rank, self._num_ranks)


def batches(
    reader: Reader, steps: range, rank: int, num_ranks: int, processes: int
) -> Iterator[Batch]:
    """Yield one rank's batches for the steps in order, read ahead by `processes` if any."""
    yield from torch.utils.data.DataLoader(
        Steps(reader, rank, num_ranks),
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        multiprocessing_context="spawn" if processes else None,
    )


def _embeddings(found: release.Release, encoder_id: str) -> dict[str, Tensor]:
    return {
        text: torch.from_numpy(values.astype(np.uint16).view(np.int16)).view(torch.bfloat16).float()
        for text, values in found.embeddings(encoder_id).items()
    }


def _framerate(
    times_s: npt.NDArray[np.float64],
    num_frames: int,
    ladder: tuple[float, ...],
    random: np.random.Generator,
) -> float:
    """Return a rate that the clip has the frames and the length for.

    Raises:
        DataError: The clip has fewer frames than are to be shown.
    """
    if len(times_s) < num_frames:
        raise DataError(f"too short: {len(times_s)} frames, {num_frames} are shown")
    length_s = float(times_s[-1])
    native = (len(times_s) - 1) / length_s if length_s > 0 else float("inf")
    slack = 1e-3
    fitting = [
        fps
        for fps in ladder
        if fps <= native * (1 + slack) and (num_frames - 1) / fps <= length_s * (1 + slack)
    ]
    return float(random.choice(fitting)) if fitting else native


def _nearest(
    times_s: npt.NDArray[np.float64], wanted_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return the index of the frame whose time is nearest to each wanted one."""
    right = np.clip(np.searchsorted(times_s, wanted_s), 1, len(times_s) - 1)
    left = right - 1
    earlier = wanted_s - times_s[left] <= times_s[right] - wanted_s
    return np.where(earlier, left, right).astype(np.int64)


def _resized(frames: Tensor, height: int, width: int) -> Tensor:
    """Return frames [n, h, w, 3] cut to the aspect around the middle and averaged to the size."""
    _, full_h, full_w, _ = frames.shape
    scale = min(full_h / height, full_w / width)
    cut_h, cut_w = min(full_h, round(height * scale)), min(full_w, round(width * scale))
    top, left = (full_h - cut_h) // 2, (full_w - cut_w) // 2
    cut = frames[:, top : top + cut_h, left : left + cut_w].permute(0, 3, 1, 2).float()
    if cut_h >= height and cut_w >= width:
        small = functional.interpolate(cut, size=(height, width), mode="area")
    else:
        small = functional.interpolate(cut, size=(height, width), mode="bilinear")
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
