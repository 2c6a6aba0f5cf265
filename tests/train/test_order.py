"""The order of training is a function of seed and position, and of nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from train.order import Order, positions, sample_seed

SHARDS = [f"shard{i // 7}" for i in range(40)]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_each_epoch_visits_every_clip_once(num_clips, window_shards, seed, epoch):
    order = Order([f"{i % 4}" for i in range(num_clips)], seed, window_shards)
    first = epoch * num_clips
    seen = [order.index(p) for p in range(first, first + num_clips)]
    assert sorted(seen) == list(range(num_clips))


def test_any_number_of_ranks_sees_the_same_global_batches():
    for step in range(5):
        alone = list(positions(step, 12, 0, 1))
        for num_ranks in (2, 3, 4, 6):
            shares = [positions(step, 12, rank, num_ranks) for rank in range(num_ranks)]
            assert [p for share in shares for p in share] == alone


def test_a_position_can_be_asked_for_in_any_order():
    order = Order(SHARDS, seed=1, window_shards=2)
    forward = [order.index(p) for p in range(100)]
    backward = [order.index(p) for p in reversed(range(100))]
    assert backward[::-1] == forward


def test_names_of_shards_do_not_matter():
    renamed = [{"shard0": "z", "shard3": "a"}.get(s, s) for s in SHARDS]
    first, second = Order(SHARDS, 1, 2), Order(renamed, 1, 2)
    assert [first.index(p) for p in range(80)] == [second.index(p) for p in range(80)]


def test_seeds_and_epochs_differ():
    first, second = Order(SHARDS, 1, 99), Order(SHARDS, 2, 99)
    one = [first.index(p) for p in range(40)]
    assert one != [second.index(p) for p in range(40)]
    assert one != [first.index(p) for p in range(40, 80)]


def test_a_window_reads_from_few_shards():
    order = Order(SHARDS, seed=3, window_shards=2)
    assert len({SHARDS[order.index(p)] for p in range(10)}) <= 2


def test_samples_have_their_own_seeds():
    seeds = {sample_seed(s, k, p) for s in (0, 1) for k in ("video", "image") for p in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
