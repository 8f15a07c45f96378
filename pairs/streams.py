"""Every random number of a pair set and of its use: one counter-based generator, one table of its streams.

A counter-based generator (Philox) has no state to carry along: number j of row i is a pure function of (seed, stream, i, j), so that the
count of workers, the rank, a restart or the size of a block change no number that is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[int, int, int, int, int], np.ndarray]
"""`counter_uniform` or `counter_normal`"""

TRIES = 100
"""Tries at one proposal, see `boxes.draw_proposals`."""
ATTEMPTS = 256
"""Draws of one pair at most: an attempt above 0 replaces a pair whose frames could not be used."""

_REQUEST = 512  # numbers that cost as much as a request
_WORDS = 4  # 64-bit words that one step of the Philox counter gives
_MASK = 2**64 - 1


@dataclass(frozen=True)
class Streams:
    """A run of streams with one purpose: streams first, first + 1, ..., first + count - 1."""

    first: int
    count: int
    purpose: str

    def __getitem__(self, index: int) -> int:
        """Stream number `index` of the run. IndexError outside it."""
        if not 0 <= index < self.count:
            raise IndexError(f"expected a stream below {self.count} for {self.purpose}, found {index}")
        return self.first + index


# Within the block of one split and attempt (see `pair_block`), all of the pair set's seed:
CHOICE = Streams(0, 1, "3 uniform: sequence, ref frame, test frame")
SCALE = Streams(1, 1, "4 normal: log size of the jittered boxes, (image, w / h)")
CENTER = Streams(2, 1, "4 uniform: centre of the jittered boxes, (image, x / y)")
RECORDED_PHOTOMETRY = Streams(3, 1, "3 uniform: grey, brightness of ref, of test")
SYNTHETIC = Streams(4, 2, "uniform: what a synthetic source makes the ref frame from, the test frame from (what both share: the first)")
PROPOSALS = Streams(1024, 1 + 2 * TRIES, "sigma of a proposal; then noise and replacement of small sides, a try each")
BLOCK = 2**16

_CACHES, _PASSES = 2**8, 2**32
PAIR_SETS = Streams(0, 2 * ATTEMPTS * BLOCK, "a block for each split and attempt")
PROJECTION = Streams(2**32, 4, "a drawn projection, one stream a layer; of its own seed")
ORDER_CHOICE = Streams(2**40, 1, "which cache a position of a run belongs to; this and all below of the run's seed")
ORDER_CHUNKS = Streams(2**41, _CACHES * _PASSES, "order of the chunks, one stream a cache and pass")
ORDER_PAIRS = Streams(2**42, _CACHES * _PASSES, "order of the pairs within a window, one stream a cache and pass")
FRESH_PHOTOMETRY = Streams(2**43, 1, "8 uniform: brightness, grey, flip, blur of a position")
MIX = Streams(2**44, 1, "whether a step is fresh")
FRESH_PROPOSALS = Streams(2**45, 1 + 2 * TRIES, "as PROPOSALS, of a position")
PROPOSAL_CHOICE = Streams(2**46, 1, "which of the stored proposals a position uses")
TRACKED_SHIFT = Streams(2**47, 1, "2 uniform: shift of a first-frame sample; this and all below of the tracker's seed")
TRACKED_DROPOUT = Streams(2**47 + 1, 1, "a uniform for each channel of a thinned first-frame sample")
TRACKED_BOXES = Streams(2**47 + 2, 1, "4 uniform for each random box of a frame")
TRACKED_PROJECTION = Streams(2**47 + 16, 8, "normal: the first projection of a filter, a row for each channel; one stream a filter")


def pair_block(training: bool, attempt: int) -> int:
    """First stream of the block that a split's pairs of one attempt are drawn from; the streams within a block are added to it."""
    return PAIR_SETS[((0 if training else 1) * ATTEMPTS + attempt) * BLOCK]


def order_stream(streams: Streams, cache: int, turn: int) -> int:
    """The stream of one cache's pass number `turn`, of ORDER_CHUNKS or ORDER_PAIRS."""
    return streams[cache * _PASSES + turn]


def counter_uniform(seed: int, stream: int, first: int, count: int, numbers: int) -> np.ndarray:
    """Uniform numbers of the rows first ... first + count - 1.

    seed, stream: 0 <= value < 2**64, the two halves of the Philox key; first >= 0.
    Returns (count, numbers) float64 in [0, 1), multiples of 2**-53. Row i is a pure function of (seed, stream, first + i, numbers).
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox4x64-10.
    """
    steps = -(-numbers // _WORDS)
    counter = first * steps
    generator = np.random.Philox(
        key=np.array([seed, stream], np.uint64), counter=np.array([counter & _MASK, counter >> 64, 0, 0], np.uint64)
    )
    raw = generator.random_raw(count * steps * _WORDS).reshape(count, steps * _WORDS)[:, :numbers]
    # raw words, not Generator.random: numpy promises the stream of the bit generator only
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def counter_normal(seed: int, stream: int, first: int, count: int, numbers: int) -> np.ndarray:
    """N(0, 1) numbers by Box-Muller, rows as in `counter_uniform` (of the same stream: use one stream for one purpose).

    Returns (count, numbers) float64.
    """
    pairs = -(-numbers // 2)
    uniform = counter_uniform(seed, stream, first, count, 2 * pairs)
    # contiguous halves: numpy picks another sine for strided input, and the last bit may not depend on the shape of the request
    radius = np.sqrt(-2.0 * np.log(np.ascontiguousarray(1.0 - uniform[:, :pairs])))
    angle = np.ascontiguousarray(2.0 * np.pi * uniform[:, pairs:])
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :numbers]


def of_rows(draw: Draw, seed: int, stream: int, rows: np.ndarray, numbers: int) -> np.ndarray:
    """`draw` (`counter_uniform`, `counter_normal`) for these rows (n,), ascending: (n, numbers).

    Rows that are close come from one request, what lies between them is thrown away: a request costs as much as some hundred numbers.
    """
    if not len(rows):
        return np.empty((0, numbers))
    gaps = np.diff(rows) * numbers > _REQUEST
    found = []
    for near in np.split(rows, np.flatnonzero(gaps) + 1) if gaps.any() else [rows]:
        first, last = int(near[0]), int(near[-1])
        drawn = draw(seed, stream, first, last - first + 1, numbers)
        found.append(drawn if len(drawn) == len(near) else drawn[near - first])
    return np.concatenate(found) if len(found) > 1 else found[0]
