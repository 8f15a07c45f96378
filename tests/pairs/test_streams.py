"""Counter-based numbers against plain twins, and the table of their streams."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pairs import streams


@pytest.mark.parametrize("draw", [streams.counter_uniform, streams.counter_normal])
@pytest.mark.parametrize("numbers", [1, 3, 4, 7, 64])
def test_any_split_gives_the_same_rows(draw, numbers):
    whole = draw(5, 3, 10, 40, numbers)
    for cuts in ([1], [13, 14, 39], list(range(1, 40))):
        edges = [0, *cuts, 40]
        parts = [draw(5, 3, 10 + a, b - a, numbers) for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.float64 and whole.shape == (40, numbers)


@pytest.mark.parametrize("draw", [streams.counter_uniform, streams.counter_normal])
@pytest.mark.parametrize("numbers", [1, 16, 64, 700])
@pytest.mark.parametrize("rows", [[], [7], range(3, 60, 8), [0, 1, 2, 900, 901, 90_000], [2**63, 2**63 + 1, 2**63 + 9]])
def test_scattered_rows_are_those_drawn_one_by_one(draw, numbers, rows):
    found = streams.of_rows(draw, 4, 2, np.array(rows, np.uint64 if max(rows, default=0) > 2**62 else np.int64), numbers)
    assert found.shape == (len(rows), numbers) and found.dtype == np.float64
    for row, own in zip(rows, found, strict=True):
        assert np.array_equal(own, draw(4, 2, row, 1, numbers)[0])


def test_seed_stream_and_row_all_change_the_numbers():
    base = streams.counter_uniform(1, 2, 3, 1, 8)
    for other in ((2, 2, 3), (1, 3, 3), (2, 1, 3), (1, 2, 4)):
        assert not np.isin(streams.counter_uniform(*other, 1, 8), base).any()


def test_numbers_are_pinned():
    """A cache is built over years of library versions: these words may never change."""
    raw = np.random.Philox(key=np.array([7, 1], np.uint64)).random_raw(4)
    assert np.array_equal(streams.counter_uniform(7, 1, 0, 1, 4)[0], [int(word >> 11) / 2**53 for word in raw.tolist()])
    assert np.array_equal(streams.counter_uniform(7, 1, 0, 1, 4)[0] * 2**53, PINNED)


PINNED = [7948554575802349, 3324001813059877, 4657349766523614, 2988496395884266]


def test_high_rows_and_seeds():
    assert streams.counter_uniform(2**63 - 1, 2**64 - 1, 2**63, 2, 5).shape == (2, 5)
    far = streams.counter_uniform(0, 0, 2**64 - 1, 2, 4)
    assert np.array_equal(far[1], streams.counter_uniform(0, 0, 2**64, 1, 4)[0])


def test_uniform_distribution():
    x = np.sort(streams.counter_uniform(1, 2, 0, 20_000, 3).ravel())
    assert x[0] >= 0 and x[-1] < 1
    assert np.abs(x - (np.arange(len(x)) + 0.5) / len(x)).max() < 1.63 / math.sqrt(len(x))  # Kolmogorov-Smirnov, 1 %


def test_normal_distribution():
    x = np.sort(streams.counter_normal(1, 2, 0, 20_000, 3).ravel())
    expected = 0.5 * (1 + torch.erf(torch.from_numpy(x) / math.sqrt(2))).numpy()
    assert np.abs(expected - (np.arange(len(x)) + 0.5) / len(x)).max() < 1.63 / math.sqrt(len(x))
    assert np.isfinite(x).all()
    corr = np.corrcoef(streams.counter_normal(1, 2, 0, 20_000, 4).T) - np.eye(4)
    assert np.abs(corr).max() < 4 / math.sqrt(20_000)


def test_no_two_streams_of_the_table_overlap():
    everything = [value for value in vars(streams).values() if isinstance(value, streams.Streams)]
    in_block = [run for run in everything if run.first < streams.BLOCK and run != streams.PAIR_SETS]
    of_the_seed = [run for run in everything if run not in in_block]
    assert len(in_block) == 6 and len(of_the_seed) == 13
    for table in (of_the_seed, in_block):
        ordered = sorted(table, key=lambda run: run.first)
        for before, after in itertools.pairwise(ordered):
            assert before.first + before.count <= after.first, (before.purpose, after.purpose)
        assert all(run.count > 0 and run.first >= 0 and run.first + run.count <= 2**64 for run in ordered)
    assert all(run.first + run.count <= streams.BLOCK for run in in_block)


def test_blocks_of_splits_and_attempts_do_not_meet():
    blocks = [streams.pair_block(training, attempt) for training in (True, False) for attempt in range(streams.ATTEMPTS)]
    assert sorted(blocks) == list(range(0, 2 * streams.ATTEMPTS * streams.BLOCK, streams.BLOCK))
    with pytest.raises(IndexError):
        streams.pair_block(False, streams.ATTEMPTS)


def test_a_stream_outside_its_run_is_refused():
    assert streams.PROJECTION[3] == 2**32 + 3
    assert streams.order_stream(streams.ORDER_PAIRS, 2, 5) == 2**42 + 2 * 2**32 + 5
    for bad in (-1, 4):
        with pytest.raises(IndexError, match="expected a stream below 4 for a drawn projection"):
            streams.PROJECTION[bad]
