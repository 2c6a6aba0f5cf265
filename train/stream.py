"""One of a reader's streams, videos or images: which rows of the index come in which order."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from infra.errors import ConfigError
from infra.store.index import Index, Numbers, Shards
from infra.store.selection import Kind
from train.config import TrainSettings
from train.order import Cursor, Order

log = logging.getLogger(__name__)

_SPREAD = 10_000
_REMEMBERED = 4096


class Stream:
    """The clips of one kind, in order, from where its cursor stands."""

    def __init__(
        self, name: Kind, index: Index, shards: Shards, batch: int, settings: TrainSettings
    ) -> None:
        """Start at the first sample of the first epoch; `build` checks that there is one."""
        self.name, self.shards, self.batch = name, shards, batch
        self._index = index
        self._seed = settings.seed
        self._order = Order(shards, settings.seed, settings.reader.window_shards)
        self._start = 0
        self._ends = np.cumsum(shards.counts)
        self._rows: dict[int, dict[str, Any]] = {}

    @classmethod
    def build(
        cls, name: Kind, index: Index, batch: int, settings: TrainSettings, num_frames: int
    ) -> "Stream":
        """Return the stream of what the release has of a kind; videos too short are left out.

        Raises:
            ConfigError: It has nothing of that kind.
        """
        shards = index.shards("train", name, min_frames=num_frames)
        if name == "video":
            short = index.shards("train", name).num_clips - shards.num_clips
            if short:
                log.warning(
                    "left out, shorter than the %d frames of the model clips=%d of=%d",
                    num_frames, short, shards.num_clips + short,
                )  # fmt: skip
        if not shards.num_clips:
            raise ConfigError(
                f"batch_{name}s: {batch} asked for, but the release has no {name} to train on; "
                f"ingest some, or set stage1.batch_{name}s and stage2.batch_{name}s to 0"
            )
        return cls(name, index, shards, batch, settings)

    def resume(self, saved: Mapping[str, Any], release_digest: str) -> None:
        """Continue from a saved cursor.

        Raises:
            DataError: It is of another release or seed.
        """
        cursor = Cursor(**saved)
        cursor.check(release_digest, self._seed)
        self._start = cursor.position(self.shards.num_clips)

    def cursor(self, steps: int, release_digest: str) -> Cursor:
        """Return where the stream stands so many steps after it was started or resumed."""
        first = Cursor(release_digest, self._seed)
        return first.advanced(self.position(steps), self.shards.num_clips)

    def position(self, steps: int) -> int:
        """Return the position of the first sample so many steps after the start."""
        return self._start + steps * self.batch

    def row(self, position: int) -> dict[str, Any]:
        """Return the row that stands at a position."""
        if position not in self._rows:
            if len(self._rows) >= _REMEMBERED:
                self._rows.clear()
            self._rows[position] = self._index.row(self._order.row(position))
        return self._rows[position]

    def substitute(self, seed: int) -> dict[str, Any]:
        """Return the row that takes the place of one that cannot be read."""
        return self._index.row(int(self._numbers(np.array([seed % self.shards.num_clips]))[0]))

    def spread(self) -> Numbers:
        """Return rows of the index that stand for all: all of them, or 10,000 at even distances."""
        count = self.shards.num_clips
        return self._numbers(np.arange(0, count, max(1, count // _SPREAD)))

    def _numbers(self, places: Numbers) -> Numbers:
        """Return the rows of the index of the clips counted over all shards."""
        shard = np.searchsorted(self._ends, places, side="right")
        before = self._ends[shard] - self.shards.counts[shard]
        return self.shards.firsts[shard] + places - before
