"""The order of training samples, computed instead of streamed.

Position p of a stream of n clips is clip `index(p)` of epoch p // n: shards are permuted by a seed
and the epoch, and clips are shuffled inside windows of some shards, so that a window's media can
stay near. Nothing depends on ranks: the global batch b is positions [b*G, (b+1)*G) and each rank
takes its slice, so any number of ranks that divides G sees the same batches, and the cursor of a
stream is one number.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Order:
    """A seeded, endless order over clips that lie in shards."""

    def __init__(self, shards: Sequence[str], seed: int, window_shards: int) -> None:
        """Prepare the order.

        Args:
            shards: The shard of each clip; clips are numbered by their place here.
            seed: Changes the order.
            window_shards: Shards whose clips are shuffled together.
        """
        assert shards, "an order needs a clip"
        self.num_clips = len(shards)
        self._seed = seed
        self._window_shards = window_shards
        members: dict[str, list[int]] = {}
        for index, shard in enumerate(shards):
            members.setdefault(shard, []).append(index)
        # Shard names are random; the clips in them are not.
        self._members = [np.asarray(m, np.int64) for m in sorted(members.values())]
        self._window: tuple[tuple[int, int], int, Indices] = ((-1, -1), 0, np.empty(0, np.int64))
        self._epoch = -1
        self._bounds = np.empty(0, np.int64)
        self._permuted: list[Indices] = []

    def index(self, position: int) -> int:
        """Return the clip at a position of the stream."""
        epoch, place = divmod(position, self.num_clips)
        if epoch != self._epoch:
            self._begin(epoch)
        window = int(np.searchsorted(self._bounds, place, side="right")) - 1
        key, start, clips = self._window
        if key != (epoch, window):
            start, clips = int(self._bounds[window]), self._shuffled(epoch, window)
            self._window = ((epoch, window), start, clips)
        return int(clips[place - start])

    def _begin(self, epoch: int) -> None:
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._members))
        self._permuted = [self._members[i] for i in order]
        sizes = [
            sum(len(m) for m in self._permuted[i : i + self._window_shards])
            for i in range(0, len(self._permuted), self._window_shards)
        ]
        self._bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._epoch = epoch

    def _shuffled(self, epoch: int, window: int) -> Indices:
        first = window * self._window_shards
        clips = np.sort(np.concatenate(self._permuted[first : first + self._window_shards]))
        np.random.default_rng((self._seed, epoch, window, 1)).shuffle(clips)
        return clips


def positions(step: int, batch: int, rank: int, num_ranks: int) -> range:
    """Return the positions of a stream that one rank reads at a step.

    Args:
        step: Counted from 0.
        batch: Samples per step over all ranks; a multiple of `num_ranks`.
        rank: Whose slice.
        num_ranks: How many there are.
    """
    share = batch // num_ranks
    first = step * batch + rank * share
    return range(first, first + share)


def sample_seed(seed: int, stream: str, position: int) -> int:
    """Return the seed [0, 2^63) of everything random about one sample."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
