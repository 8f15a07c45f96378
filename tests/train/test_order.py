"""The order of pairs: complete, stateless, shared out without overlap."""

from __future__ import annotations

import numpy as np
import pytest

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
