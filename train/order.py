"""The order of training samples, computed instead of streamed.

Position p of a stream of n clips is sample p % n of epoch p // n: shards are permuted by the seed
and the epoch, and clips are shuffled inside windows of some shards, so that a window's media can
stay near. Nothing depends on ranks: the global batch b is positions [b*G, (b+1)*G) and each rank
takes its slice, so any number of ranks that divides G sees the same batches, and where a stream
stands is a `Cursor`. Memory is that of the shards and of one window.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from infra.errors import DataError
from infra.store.index import Numbers, Shards


@dataclass(frozen=True)
class Cursor:
    """How far a stream has been read; saved in checkpoints."""

    release_digest: str
    seed: int
    epoch: int = 0
    samples_consumed: int = 0
    """In this epoch."""

    def advanced(self, samples: int, num_clips: int) -> "Cursor":
        """Return the cursor after so many further samples of a stream of `num_clips`."""
        epochs, consumed = divmod(self.samples_consumed + samples, num_clips)
        return replace(self, epoch=self.epoch + epochs, samples_consumed=consumed)

    def position(self, num_clips: int) -> int:
        """Return the next position of a stream of `num_clips`."""
        return self.epoch * num_clips + self.samples_consumed

    def check(self, release_digest: str, seed: int) -> None:
        """Refuse to continue in another order.

        Raises:
            DataError: The cursor is of another release or seed.
        """
        if (self.release_digest, self.seed) != (release_digest, seed):
            raise DataError(
                f"the checkpoint's cursor is of release {self.release_digest[:12]} and seed "
                f"{self.seed}, the run reads release {release_digest[:12]} with seed {seed}; "
                "resume with the same, or start a new run"
            )


class Order:
    """A seeded, endless order over clips that lie in shards."""

    def __init__(self, shards: Shards, seed: int, window_shards: int) -> None:
        """Prepare the order.

        Args:
            shards: Where the clips of each shard lie in the release's index.
            seed: Changes the order.
            window_shards: Shards whose clips are shuffled together.
        """
        assert shards.num_clips, "an order needs a clip"
        self.num_clips = shards.num_clips
        self._shards = shards
        self._seed = seed
        self._window_shards = window_shards
        self._epoch = -1
        self._permuted = self._bounds = np.empty(0, np.int64)
        self._window, self._rows = (-1, -1), np.empty(0, np.int64)

    def row(self, position: int) -> int:
        """Return the row of the index that stands at a position of the stream."""
        return self.at(*divmod(position, self.num_clips))

    def at(self, epoch: int, place: int) -> int:
        """Return the row of the index that is sample `place` of an epoch."""
        if epoch != self._epoch:
            self._begin(epoch)
        window = int(np.searchsorted(self._bounds, place, side="right")) - 1
        if self._window != (epoch, window):
            self._window, self._rows = (epoch, window), self._shuffled(epoch, window)
        return int(self._rows[place - self._bounds[window]])

    def _begin(self, epoch: int) -> None:
        random = np.random.default_rng((self._seed, epoch))
        self._permuted = random.permutation(len(self._shards.firsts))
        ends = np.cumsum(self._shards.counts[self._permuted])
        self._bounds = np.concatenate(
            [[0], ends[self._window_shards - 1 : -1 : self._window_shards]]
        )
        self._epoch = epoch

    def _shuffled(self, epoch: int, window: int) -> Numbers:
        begin = window * self._window_shards
        members = np.sort(self._permuted[begin : begin + self._window_shards])
        rows = np.concatenate(
            [
                np.arange(first, first + count)
                for first, count in zip(
                    self._shards.firsts[members], self._shards.counts[members], strict=True
                )
            ]
        )
        np.random.default_rng((self._seed, epoch, window, 1)).shuffle(rows)
        return rows


def positions(first: int, batch: int, rank: int, num_ranks: int) -> range:
    """Return the positions of a stream that one rank reads for a global batch.

    Args:
        first: Position of the global batch's first sample.
        batch: Its samples over all ranks; a multiple of `num_ranks`.
        rank: Whose slice.
        num_ranks: How many there are.
    """
    share = batch // num_ranks
    return range(first + rank * share, first + (rank + 1) * share)


def sample_seed(seed: int, stream: str, position: int) -> int:
    """Return the seed [0, 2^63) of everything random about one sample."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
