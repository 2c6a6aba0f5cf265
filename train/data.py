"""Batches for training: clips by computed order, decoded, cut in time and space.

A reader maps the release's index and embeddings into memory and knows the order, so it fetches the
bytes of the next clips while it decodes one. What is random about a sample comes from its own seed,
so ranks, restarts and caches never change it. A clip that cannot be read is replaced by another
one, chosen by the sample's seed, and counted.

    reader = Reader(Source(dataset_root, release_name, encoder_id), settings, geometry)
    batch = reader.batch(step, rank, num_ranks)
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infra.errors import DataError
from infra.store import cache, embedded, index, release
from infra.store.fetch import Fetcher
from infra.store.selection import Kind
from train.config import TrainSettings
from train.decode import Decoder, Geometry, Shown
from train.model.fit import Conditioning, framerate_token, resolution_token
from train.order import positions, sample_seed
from train.stream import Stream

log = logging.getLogger(__name__)

_ATTEMPTS = 16
_SMALL_BYTES = 256 << 10


@dataclass(frozen=True)
class Source:
    """Where clips, captions and text embeddings come from."""

    dataset_root: str
    release: str
    encoder_id: str


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Attributes:
        clips: Pixels in [-1, 1], [batch, 3, t, h, w]; videos first, then images.
        cond: Text, framerate and resolution of each clip; nothing is dropped yet.
        seeds: Each sample's seed for noise and dropout of the text.
        clip_ids: Which clip each sample was cut from.
        is_image: True where that clip is an image.
        bad: Clips that stood there and could not be read; others took their places.
    """

    clips: Tensor
    cond: Conditioning
    seeds: tuple[int, ...]
    clip_ids: tuple[str, ...]
    is_image: tuple[bool, ...]
    bad: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Travel between processes with small tensors as arrays.

        Torch shares each tensor by a file descriptor of its own, which costs more than its bytes.
        """
        cond = {name: _light(held) for name, held in vars(self.cond).items() if held is not None}
        return _arrived, (vars(self) | {"cond": None}, cond)


def _pixels(shown: list[Shown]) -> Tensor:
    """Return frames as a network sees them; in a DataLoader's process in memory that is shared."""
    clips = []
    for clip in shown:
        channels_first = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)
        pixels = torch.empty(channels_first.shape).copy_(channels_first)
        clips.append(pixels.div_(127.5).sub_(1))
    found: Tensor = torch.utils.data.default_collate(clips)
    return found


def _light(tensor: Tensor) -> Tensor | npt.NDArray[Any]:
    return tensor.numpy() if tensor.nbytes <= _SMALL_BYTES else tensor


def _arrived(values: dict[str, Any], cond: dict[str, Tensor | npt.NDArray[Any]]) -> Batch:
    tensors = {name: torch.as_tensor(held) for name, held in cond.items()}
    return Batch(**values | {"cond": Conditioning(**tensors)})


class Reader:
    """Reads the training split of a release; pickles without what it has read."""

    def __init__(self, source: Source, settings: TrainSettings, geometry: Geometry) -> None:
        """Open the release's index and embeddings; read no media yet.

        Raises:
            ConfigError: A batch of videos or images is asked for and the release has none.
            DataError: The release is not there, or a caption of it is not embedded.
        """
        found = release.load(source.dataset_root, source.release)
        folder = cache.folder(settings.reader.disk_cache)
        self.digest = found.digest
        self._settings = settings
        self._rows = index.opened(found, folder)
        self._texts = embedded.opened(found, self._rows, source.encoder_id, folder)
        self.text_width = self._texts.width
        sizes: dict[Kind, int] = {"video": settings.batch_videos, "image": settings.batch_images}
        self._streams = {
            name: Stream.build(name, self._rows, batch, settings, geometry.frames)
            for name, batch in sizes.items()
            if batch
        }
        limit_bytes = settings.reader.disk_cache_mib << 20
        self._fetcher = Fetcher(
            found.root,
            cache.DiskCache(folder, limit_bytes) if limit_bytes else None,
            threads=settings.reader.fetch_threads,
            limit=settings.reader.read_ahead,
        )
        num_frames = sum(int(stream.shards.frames.sum()) for stream in self._streams.values())
        fits = geometry.decoded_bytes(num_frames) <= settings.reader.cache_mib << 20
        self._decoder = Decoder(self._fetcher, settings.reader, geometry, keeps=fits)
        self._bad: dict[str, str] = {}
        self._first_step = 0

    @property
    def source_size(self) -> dict[str, int]:
        """Median height and width of the sources, in pixels: what sampling assumes by default."""
        rows = np.concatenate([stream.spread() for stream in self._streams.values()])
        sizes = self._rows.table(["height", "width"]).take(rows)
        return {
            f"source_{side}": int(np.median(sizes[side].to_numpy())) for side in ("height", "width")
        }

    def resume(self, step: int, cursors: Mapping[str, Mapping[str, Any]]) -> None:
        """Continue where a checkpoint says that each stream stood at a step.

        Raises:
            DataError: It was made with another release or seed.
        """
        if not cursors:  # of a version that kept none: nothing but the step counts
            return
        self._first_step = step
        for name, stream in self._streams.items():
            if name in cursors:
                stream.resume(cursors[name], self.digest)

    def cursors(self, step: int) -> dict[str, dict[str, Any]]:
        """Return where each stream stands when a step begins, for the checkpoint."""
        return {
            name: asdict(stream.cursor(step - self._first_step, self.digest))
            for name, stream in self._streams.items()
        }

    def batch(self, step: int, rank: int, num_ranks: int, coming: range = range(0)) -> Batch:
        """Return one rank's share of the global batch of a step.

        Args:
            step: Counted from the start of the run.
            rank: Whose share.
            num_ranks: How many ranks there are.
            coming: Steps that this process will be asked for next.

        Raises:
            DataError: More clips than `max_bad_share` cannot be read.
        """
        self._fetch_ahead((step, *coming), rank, num_ranks)
        rows, shown, seeds = [], [], []
        bad: list[str] = []
        for stream in self._streams.values():
            for position in self._positions(stream, step, rank, num_ranks):
                seed = sample_seed(self._settings.seed, stream.name, position)
                row, clip = self._sample(stream, position, seed, bad)
                rows.append(row)
                shown.append(clip)
                seeds.append(seed)
        return Batch(
            clips=_pixels(shown),
            cond=self._condition(rows, shown),
            seeds=tuple(seeds),
            clip_ids=tuple(row["clip_id"] for row in rows),
            is_image=tuple(row["kind"] == "image" for row in rows),
            bad=tuple(bad),
        )

    def _positions(self, stream: Stream, step: int, rank: int, num_ranks: int) -> range:
        first = stream.position(step - self._first_step)
        return positions(first, stream.batch, rank, num_ranks)

    def _fetch_ahead(self, steps: tuple[int, ...], rank: int, num_ranks: int) -> None:
        """Have the bytes of the next clips fetched, in the order in which they are asked for."""
        wanted: list[dict[str, Any]] = []
        looked_at = 0
        for step in steps:
            if looked_at >= self._settings.reader.read_ahead:  # also where none of them is needed
                break
            for stream in self._streams.values():
                places = self._positions(stream, step, rank, num_ranks)
                wanted += [row for row in map(stream.row, places) if self._decoder.needs(row)]
                looked_at += len(places)
        self._fetcher.ahead(wanted)

    def _sample(
        self, stream: Stream, position: int, seed: int, bad: list[str]
    ) -> tuple[dict[str, Any], Shown]:
        """Return the row at a position, or what takes its place, and what it shows."""
        for attempt in range(_ATTEMPTS):
            row = stream.row(position)
            if attempt:
                row = stream.substitute(sample_seed(seed, "substitute", attempt))
            if row["clip_id"] not in self._bad:
                try:
                    return row, self._decoder.shown(row, seed)
                except DataError as fault:
                    self._count_bad(row, position, fault)
            bad.append(row["clip_id"])
        raise DataError(
            f"{stream.name}s: {_ATTEMPTS} clips in a row cannot be read, the last because "
            f"{next(reversed(self._bad.values()))}; check the dataset with `snapvideo dataset`"
        )

    def _count_bad(self, row: Mapping[str, Any], position: int, fault: DataError) -> None:
        self._bad[row["clip_id"]] = str(fault)
        log.warning(
            "clip replaced clip_id=%s position=%d reason=%s", row["clip_id"], position, fault
        )
        total = sum(stream.shards.num_clips for stream in self._streams.values())
        allowed = self._settings.reader.max_bad_share
        if len(self._bad) > max(1.0, allowed * total):
            raise DataError(
                f"{len(self._bad)} of {total} clips cannot be read, the last because {fault}; "
                f"reader.max_bad_share allows {allowed:.0%}: mend the dataset or raise it"
            )

    def _condition(self, rows: list[dict[str, Any]], shown: list[Shown]) -> Conditioning:
        texts = [self._texts[row["text_hash"]] for row in rows]
        size, longest = len(rows), self._texts.max_tokens
        text = torch.zeros(size, longest, self.text_width)
        mask = torch.zeros(size, longest, dtype=torch.bool)
        for number, bits in enumerate(texts):
            embedding = torch.from_numpy(bits.astype(np.uint16).view(np.int16))
            text[number, : len(bits)] = embedding.view(torch.bfloat16).float()
            mask[number, : len(bits)] = True
        heights = torch.tensor([float(clip.source_hw[0]) for clip in shown])
        widths = torch.tensor([float(clip.source_hw[1]) for clip in shown])
        return Conditioning(
            text=text,
            text_mask=mask,
            drop=torch.zeros(size, dtype=torch.bool),
            framerate=framerate_token(torch.tensor([clip.fps for clip in shown])),
            resolution=resolution_token(heights, widths),
            resolution_known=torch.ones(size, dtype=torch.bool),
        )


class Steps(torch.utils.data.Dataset[Batch]):
    """One rank's batches by step, for a DataLoader."""

    def __init__(self, reader: Reader, rank: int, num_ranks: int, stop: int) -> None:
        self._reader, self._rank, self._num_ranks, self._stop = reader, rank, num_ranks, stop

    def __getitem__(self, step: int) -> Batch:
        found = torch.utils.data.get_worker_info()  # a DataLoader's processes take steps in turns
        stride = found.num_workers if found else 1
        coming = range(step + stride, self._stop, stride)
        return self._reader.batch(step, self._rank, self._num_ranks, coming)


def batches(
    reader: Reader, steps: range, rank: int, num_ranks: int, processes: int
) -> Iterator[Batch]:
    """Yield one rank's batches for the steps in order, read ahead by `processes` if any."""
    yield from torch.utils.data.DataLoader(
        Steps(reader, rank, num_ranks, steps.stop),
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        multiprocessing_context="spawn" if processes else None,
    )
