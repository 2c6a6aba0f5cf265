"""The order of training is a function of seed and position, and of nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import DataError
from infra.store.index import Shards
from train.order import Cursor, Order, positions, sample_seed

SIZES = [7, 7, 7, 7, 7, 5]


def shards(sizes, gap=0):
    counts = np.array(sizes, np.int64)
    firsts = np.cumsum(counts + gap) - counts - gap
    return Shards(firsts, counts, counts)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 9), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip
def test_each_epoch_visits_every_clip_once(sizes, window_shards, seed, epoch, gap):
    held = shards(sizes, gap)
    order = Order(held, seed, window_shards)
    first = epoch * sum(sizes)
    seen = [order.row(p) for p in range(first, first + sum(sizes))]
    every = [f + i for f, c in zip(held.firsts, held.counts, strict=True) for i in range(c)]
    assert sorted(seen) == every


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 97), st.integers(0, 5))
def test_a_cursor_moves_as_positions_do(first, more, num_clips, seed):
    start = Cursor("digest", seed).advanced(first, num_clips)
    assert start.position(num_clips) == first
    assert start.advanced(more, num_clips).position(num_clips) == first + more
    assert 0 <= start.samples_consumed < num_clips


@pytest.mark.parametrize("other", [("another", 1), ("digest", 2)])
def test_a_cursor_of_another_order_is_refused(other):
    with pytest.raises(DataError, match="the checkpoint's cursor is of release digest and seed 1"):
        Cursor("digest", 1).check(*other)


def test_any_number_of_ranks_sees_the_same_global_batches():
    for first in range(0, 60, 12):
        for num_ranks in (1, 2, 3, 4, 6):
            shares = [positions(first, 12, rank, num_ranks) for rank in range(num_ranks)]
            assert [p for share in shares for p in share] == list(range(first, first + 12))


def test_a_position_can_be_asked_for_in_any_order():
    order = Order(shards(SIZES), seed=1, window_shards=2)
    forward = [order.row(p) for p in range(100)]
    backward = [order.row(p) for p in reversed(range(100))]
    assert backward[::-1] == forward
    assert [order.at(*divmod(p, 40)) for p in range(100)] == forward


def test_seeds_and_epochs_differ():
    first, second = Order(shards(SIZES), 1, 99), Order(shards(SIZES), 2, 99)
    one = [first.row(p) for p in range(40)]
    assert one != [second.row(p) for p in range(40)]
    assert one != [first.row(p) for p in range(40, 80)]


def test_shards_come_in_an_order_of_each_seed_and_epoch():
    orders = set()
    for seed in range(3):
        order = Order(shards([7] * 6), seed, window_shards=1)
        orders |= {tuple(order.at(epoch, 7 * n) // 7 for n in range(6)) for epoch in range(3)}
    assert len(orders) > 5
    assert all(sorted(each) == list(range(6)) for each in orders)


def test_a_window_reads_from_few_shards():
    order = Order(shards([7] * 6), seed=3, window_shards=2)
    assert len({order.row(p) // 7 for p in range(14)}) == 2


def test_samples_have_their_own_seeds():
    seeds = {sample_seed(s, k, p) for s in (0, 1) for k in ("video", "image") for p in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
