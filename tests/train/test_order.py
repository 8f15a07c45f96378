"""The order of pairs: complete, stateless, shared out without overlap."""

from __future__ import annotations

import numpy as np
import pytest

from pairs.streams import ORDER_CHUNKS, ORDER_PAIRS, counter_uniform, order_stream
from train.data.order import InOrder, Order


@pytest.mark.parametrize(("count", "chunk", "window"), [(64, 8, 2), (61, 8, 3), (5, 8, 4), (100, 7, 1)])
def test_every_pass_sees_every_pair_once_and_differs_from_the_last(count, chunk, window):
    order = Order([count], [chunk], window, seed=3)
    _, pairs = order.take(0, 2 * count)
    assert sorted(pairs[:count]) == sorted(pairs[count:]) == list(range(count))
    assert list(pairs[:count]) != list(pairs[count:]) and list(pairs[:count]) != list(range(count))


def test_any_position_is_the_same_however_it_is_reached():
    whole = Order([61, 30], [8, 8], 2, seed=1).take(0, 500)
    for first in (0, 1, 123, 499):
        source, pair = Order([61, 30], [8, 8], 2, seed=1).take(first, 500 - first)
        np.testing.assert_array_equal(source, whole[0][first:])
        np.testing.assert_array_equal(pair, whole[1][first:])
    assert not np.array_equal(Order([61, 30], [8, 8], 2, seed=2).take(0, 500)[1], whole[1])


def test_a_window_touches_only_its_chunks():
    _, pairs = Order([256], [8], 4, seed=0).take(0, 256)
    for window in pairs.reshape(8, 32):
        assert len(set(window // 8)) == 4
    # chunks are not in their order, nor pairs in their chunk's
    assert len({int(window[0] // 8) for window in pairs.reshape(8, 32)}) == 8


def test_a_mixture_draws_each_cache_alike_and_each_cache_whole():
    source, pair = Order([40, 400], [8, 8], 2, seed=0).take(0, 20_000)
    assert abs((source == 0).mean() - 0.5) < 0.02
    small = pair[source == 0]
    for turn in range(3):
        assert sorted(small[40 * turn : 40 * turn + 40]) == list(range(40))


def test_positions_past_one_block_follow_on():
    order = Order([40, 40], [8, 8], 2, seed=0)
    long = order.take(0, 9000)
    np.testing.assert_array_equal(Order([40, 40], [8, 8], 2, seed=0).take(8190, 20)[1], long[1][8190:8210])


def test_validation_goes_through_every_cache_and_then_repeats_the_last_pair():
    source, pair = InOrder([3, 2]).take(0, 7)
    assert source.tolist() == [0, 0, 0, 1, 1, 1, 1] and pair.tolist() == [0, 1, 2, 0, 1, 1, 1]


def plain_order(count: int, chunk: int, window: int, seed: int, turn: int) -> list[int]:
    """One pass over one cache: chunks in the order of their keys; of each window one pair of each chunk in turn, by the pairs' keys."""
    keys = [counter_uniform(seed, order_stream(ORDER_CHUNKS, 0, turn), at, 1, 1)[0, 0] for at in range(-(-count // chunk))]
    chunks: list[int] = np.argsort(keys, kind="stable").tolist()
    done: list[int] = []
    for first in range(0, len(chunks), window):
        queues = []
        at = len(done)
        for number in chunks[first : first + window]:
            pairs = np.arange(number * chunk, min(count, (number + 1) * chunk))
            drawn = [counter_uniform(seed, order_stream(ORDER_PAIRS, 0, turn), at + i, 1, 1)[0, 0] for i in range(len(pairs))]
            at += len(pairs)
            queues.append(pairs[np.argsort(drawn, kind="stable")].tolist())
        while any(queues):
            done += [queue.pop(0) for queue in queues if queue]
    return done


@pytest.mark.parametrize(("count", "chunk", "window"), [(64, 8, 2), (61, 8, 3), (5, 8, 4), (100, 7, 1)])
def test_the_order_is_that_of_a_plain_twin(count, chunk, window):
    _, pairs = Order([count], [chunk], window, seed=3).take(0, 2 * count)
    assert pairs.tolist() == plain_order(count, chunk, window, 3, 0) + plain_order(count, chunk, window, 3, 1)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("counts", [[1024], [1000], [1024, 400, 777]])
def test_shares_are_whole_and_equal_and_a_chunk_has_two_readers_at_most(counts, world):
    order, each = Order(counts, [8] * len(counts), 16, seed=1), 16
    readers: dict[tuple[int, int], set[int]] = {}
    for first in range(0, 1024 - each * world + 1, each * world):
        source, pair = order.take(first, each * world)
        shares = [order.share(first, each * world, rank, world) for rank in range(world)]
        assert sorted(np.concatenate(shares).tolist()) == list(range(each * world))
        for rank, share in enumerate(shares):
            assert len(share) == each and (np.diff(share) > 0).all()
            for at in share.tolist():
                readers.setdefault((int(source[at]), int(pair[at]) // 8), set()).add(rank)
    numbers = [len(ranks) for ranks in readers.values()]
    assert max(numbers) <= min(world, 2) and np.mean(numbers) < 1.7
    # one cache of whole windows that the processes divide: each chunk has one reader
    assert max(numbers) == 1 or counts != [1024] or world == 3


def test_shares_of_validation_are_neighbours():
    order = InOrder([10])
    assert [order.share(0, 6, rank, 3).tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
