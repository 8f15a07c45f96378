"""Which pair comes when: a pure function of (seed, position), so that resuming and sharing over processes change nothing.

A position is a place in the endless sequence of pairs; step g of batch B holds positions g * B ... g * B + B - 1. Every pass over a cache
permutes its chunks and takes `window` of them together, one pair of each in turn, the pairs of a chunk shuffled: so reading stays
sequential by chunk, and every pair is seen once a pass. Batches run on across the border of two passes, so all are full.

Which pairs a step holds does not depend on how many processes there are; which of them a process gets does. Each gets equally many, by the
place of their chunks in the window: so it reads chunks of its own, and of its neighbours' what is needed to make the numbers equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from pairs.streams import ORDER_CHOICE, ORDER_CHUNKS, ORDER_PAIRS, counter_uniform, order_stream

_BLOCK = 4096  # positions whose caches are counted together


class Positions(Protocol):
    """An order of pairs: `Order` or `InOrder`."""

    window: int
    """chunks of a cache that are used together"""
    total: int | None
    """positions until it ends; None: never"""

    def take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(cache (count,), pair (count,)) of positions first ... first + count - 1."""

    def share(self, first: int, count: int, rank: int, world: int) -> np.ndarray:
        """Which of these positions, counted from 0 and ascending, process `rank` of `world` gets: (count / world,)."""


class Order:
    """The endless shuffled order of one or several caches, mixed with equal probability a pair."""

    def __init__(self, counts: Sequence[int], chunks: Sequence[int], window: int, seed: int) -> None:
        """counts: pairs of each cache; chunks: pairs of a chunk of each; window: chunks that are shuffled together."""
        self.counts, self.chunks, self.window, self.seed = list(counts), list(chunks), window, seed
        self.total: int | None = None
        # positions of each cache before every block, found as far as they were asked for
        self._before: list[np.ndarray] = [np.zeros(len(counts), np.int64)]
        self._chunk_order = lru_cache(4 * len(counts))(self._draw_chunk_order)
        self._window_pairs = lru_cache(4 * len(counts))(self._draw_window_pairs)

    def take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Positions`."""
        source, pair, _ = self._take(first, count)
        return source, pair

    def share(self, first: int, count: int, rank: int, world: int) -> np.ndarray:
        """See `Positions`."""
        each = count // world
        if world == 1:
            return np.arange(each)
        by_chunk = np.argsort(self._take(first, count)[2], kind="stable")
        return np.sort(by_chunk[rank * each : (rank + 1) * each])

    def _take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cache, pair, and the place in [0, 1) of the pair's chunk in its window, of each position."""
        source, place = self._sources(first, count)
        pair, chunk = np.empty(count, np.int64), np.empty(count)
        for cache in np.unique(source).tolist():
            mine = np.flatnonzero(source == cache)
            turns, rest = np.divmod(place[mine], self.counts[cache])
            for turn in np.unique(turns).tolist():
                of_turn = np.flatnonzero(turns == turn)
                ends = self._chunk_order(cache, turn)[1]
                numbers = np.searchsorted(ends, rest[of_turn], side="right")
                for number in np.unique(numbers).tolist():
                    here = of_turn[numbers == number]
                    pairs, chunks = self._window_pairs(cache, turn, number)
                    within = rest[here] - (int(ends[number - 1]) if number else 0)
                    pair[mine[here]], chunk[mine[here]] = pairs[within], chunks[within]
        return source, pair, chunk

    def _sources(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The cache of each position, and how many positions of that cache lie before it."""
        if len(self.counts) == 1:
            return np.zeros(count, np.int64), np.arange(first, first + count)
        block = first // _BLOCK
        while len(self._before) <= block:
            done = len(self._before) - 1
            self._before.append(self._before[-1] + np.bincount(self._choices(done * _BLOCK, _BLOCK), minlength=len(self.counts)))
        start = block * _BLOCK
        choices = self._choices(start, first + count - start)
        place = np.empty(len(choices), np.int64)
        for source, before in enumerate(self._before[block]):
            mine = choices == source
            place[mine] = before + np.arange(mine.sum())
        return choices[first - start :], place[first - start :]

    def _choices(self, first: int, count: int) -> np.ndarray:
        uniform = counter_uniform(self.seed, ORDER_CHOICE[0], first, count, 1)[:, 0]
        return np.minimum((uniform * len(self.counts)).astype(np.int64), len(self.counts) - 1)

    def _draw_chunk_order(self, source: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """The chunks of a pass in their order, and the place behind each window's last pair."""
        size, count = self.chunks[source], self.counts[source]
        chunks = -(-count // size)
        order = np.argsort(counter_uniform(self.seed, order_stream(ORDER_CHUNKS, source, turn), 0, chunks, 1)[:, 0], kind="stable")
        ends = np.cumsum(np.minimum((order + 1) * size, count) - order * size)
        return order, ends[np.minimum(np.arange(self.window - 1, chunks + self.window - 1, self.window), chunks - 1)]

    def _draw_window_pairs(self, source: int, turn: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of one window in their order, and the place of each one's chunk in the window, in [0, 1)."""
        size, count = self.chunks[source], self.counts[source]
        order, ends = self._chunk_order(source, turn)
        chunks = order[number * self.window : (number + 1) * self.window]
        lengths = np.minimum((chunks + 1) * size, count) - chunks * size
        lane, begin = np.repeat(np.arange(len(chunks)), lengths), np.cumsum(lengths) - lengths
        # number of each pair in its own chunk
        inside = np.arange(len(lane)) - begin[lane]
        pairs = chunks[lane] * size + inside
        first = int(ends[number - 1]) if number else 0
        keys = counter_uniform(self.seed, order_stream(ORDER_PAIRS, source, turn), first, len(pairs), 1)[:, 0]
        shuffled = pairs[np.lexsort((keys, lane))]
        in_turn = np.lexsort((lane, inside))
        return shuffled[in_turn], lane[in_turn] / len(chunks)


class InOrder:
    """Every pair once, one cache after the other: the order of validation. Positions past the last pair repeat it."""

    window = 1

    def __init__(self, counts: Sequence[int], most: int | None = None) -> None:
        """counts: pairs of each cache; most: pairs at most, of all caches together."""
        self.ends = np.cumsum(counts)
        everything = int(self.ends[-1])
        self.total: int | None = everything if most is None else min(everything, most)

    def take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Positions`."""
        place = np.minimum(np.arange(first, first + count), self.ends[-1] - 1)
        source = np.searchsorted(self.ends, place, side="right")
        return source, place - np.concatenate([[0], self.ends])[source]

    def share(self, first: int, count: int, rank: int, world: int) -> np.ndarray:
        """See `Positions`: neighbours, which lie in the same chunk."""
        each = count // world
        return np.arange(rank * each, (rank + 1) * each)
