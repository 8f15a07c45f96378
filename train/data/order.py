"""Which pair comes when: a pure function of (seed, position), so that resuming and sharing over processes change nothing.

A position is a place in the endless sequence of pairs; step g of batch B holds positions g * B ... g * B + B - 1. Every pass over a cache
permutes its chunks and shuffles the pairs of `window` chunks together, so that reading stays sequential by chunk and every pair is seen
once a pass. Batches run on across the border of two passes, so all are full.
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
        source, place = self._sources(first, count)
        pair = np.array([self._pair(int(s), int(p)) for s, p in zip(source, place, strict=True)], np.int64)
        return source, pair

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

    def _pair(self, source: int, place: int) -> int:
        turn, rest = divmod(place, self.counts[source])
        _, ends = self._chunk_order(source, turn)
        number = int(np.searchsorted(ends, rest, side="right"))
        return int(self._window_pairs(source, turn, number)[rest - (int(ends[number - 1]) if number else 0)])

    def _draw_chunk_order(self, source: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """The chunks of a pass in their order, and the place behind each window's last pair."""
        size, count = self.chunks[source], self.counts[source]
        chunks = -(-count // size)
        order = np.argsort(counter_uniform(self.seed, order_stream(ORDER_CHUNKS, source, turn), 0, chunks, 1)[:, 0], kind="stable")
        ends = np.cumsum(np.minimum((order + 1) * size, count) - order * size)
        return order, ends[np.minimum(np.arange(self.window - 1, chunks + self.window - 1, self.window), chunks - 1)]

    def _draw_window_pairs(self, source: int, turn: int, number: int) -> np.ndarray:
        """The pairs of one window in their order."""
        size, count = self.chunks[source], self.counts[source]
        order, ends = self._chunk_order(source, turn)
        chunks = order[number * self.window : (number + 1) * self.window]
        pairs = np.concatenate([np.arange(chunk * size, min((chunk + 1) * size, count)) for chunk in chunks])
        first = int(ends[number - 1]) if number else 0
        keys = counter_uniform(self.seed, order_stream(ORDER_PAIRS, source, turn), first, len(pairs), 1)[:, 0]
        return pairs[np.argsort(keys, kind="stable")]


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
