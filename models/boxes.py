"""Boxes and the counter-based random numbers that they are drawn from.

Boxes are (x, y, w, h), top-left corner, in crop pixels. Letters: n pairs, N proposals a pair.

A counter-based generator (Philox) has no state to carry along: number j of row i is a pure function of (seed, stream, i, j), so that the
count of workers, the rank, a restart or the size of a block change no number that is drawn.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from configs.errors import RunError
from configs.schema import Pairs

TRIES = 100
# stream0: the sigma; then two streams a try (noise, replacement of small sides)
PROPOSAL_STREAMS = 1 + 2 * TRIES

_WORDS = 4  # 64-bit words that one step of the Philox counter gives
_MASK = 2**64 - 1


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


@overload
def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray: ...
@overload
def box_iou(a: Tensor, b: Tensor) -> Tensor: ...
def box_iou(a: Any, b: Any) -> Any:
    """IoU in [0, 1] of boxes a (..., 4) and b (..., 4), both numpy arrays or both torch tensors; leading dims broadcast.

    Boxes without area have IoU 0 with everything. Differentiable for torch tensors.
    """
    minimum, maximum, where = (torch.minimum, torch.maximum, torch.where) if isinstance(a, Tensor) else (np.minimum, np.maximum, np.where)
    low = maximum(a[..., :2], b[..., :2])
    sides = minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - low
    sides = maximum(sides, sides * 0)
    inter = sides[..., 0] * sides[..., 1]
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - inter
    # divide by 1 where there is no area: a guarded division keeps the gradient finite too
    return inter / where(union > 0, union, union * 0 + 1)


def draw_proposals(test_box: np.ndarray, seed: int, first: int | np.ndarray, stream0: int, pairs: Pairs) -> np.ndarray:
    """N perturbed boxes around each test box (ATOM, arXiv:1811.07628; numbers of `pairs`).

    test_box (n, 4) float64 with positive sides; row i belongs to pair first + i, or to first[i] where `first` is an ascending int array
    (n,); the streams stream0 ... stream0 + PROPOSAL_STREAMS - 1 of `seed` are used. Returns (n, N, 4) float32; a row is a pure function
    of (seed, stream0, its pair, its box), whatever its neighbours.

    A proposal picks sigma uniformly from `proposal_sigmas`. A try adds N(0, sigma * sqrt(w * h)) to the centre's x and y, to w and to h; a
    side <= 1 becomes U(0.15, 0.5) times the original side; (x, y, w, h) is rounded to integers, half to even; a side <= 1 after rounding
    is replaced in the same way, with a new number, and stays as it is (not rounded again, as in the public code). The try is accepted if
    its IoU with the test box is above `proposal_min_iou`, else sigma *= 0.9 and again. After 100 tries the last one is kept, as it is.

    RunError: a box that is not finite or has a side <= 0.
    """
    box = np.asarray(test_box, np.float64)
    numbers = np.asarray(first) + (np.arange(len(box)) if np.ndim(first) == 0 else 0)
    bad = np.flatnonzero(~(np.isfinite(box).all(axis=1) & (box[:, 2:] > 0).all(axis=1)))
    if bad.size:
        raise RunError(
            f"expected test boxes with finite numbers and positive sides, found {box[bad[0]].tolist()} at pair {int(numbers[bad[0]])};"
            " leave such annotations out of the pair set"
        )
    count = pairs.proposals
    sigmas = np.asarray(pairs.proposal_sigmas, np.float64)
    picked = of_rows(counter_uniform, seed, stream0, numbers, count)
    scale = sigmas[(picked * len(sigmas)).astype(np.int64)] * np.sqrt(box[:, 2] * box[:, 3])[:, None]
    result = np.zeros((len(box), count, 4), np.float64)
    open_ = np.ones((len(box), count), bool)
    for attempt in range(TRIES):
        rows = np.flatnonzero(open_.any(axis=1))
        if not rows.size:
            break
        stream = stream0 + 1 + 2 * attempt
        normal = of_rows(counter_normal, seed, stream, numbers[rows], 4 * count).reshape(-1, count, 4)
        uniform = of_rows(counter_uniform, seed, stream + 1, numbers[rows], 4 * count).reshape(-1, count, 2, 2)
        tried = _perturb(box[rows], scale[rows], normal, uniform)
        result[rows] = np.where(open_[rows][..., None], tried, result[rows])
        open_[rows] &= box_iou(result[rows], box[rows][:, None]) <= pairs.proposal_min_iou
        scale *= 0.9
    return result.astype(np.float32)


def _perturb(box: np.ndarray, scale: np.ndarray, normal: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """One try: box (n, 4), scale (n, N), normal (n, N, 4), uniform (n, N, 2, 2) = (before / after rounding, w / h) -> (n, N, 4)."""
    noise = normal * scale[..., None]
    original = box[:, None, 2:]
    small = original[:, :, None] * (0.15 + 0.35 * uniform)
    sides = original + noise[..., 2:]
    sides = np.where(sides <= 1, small[:, :, 0], sides)
    corner = box[:, None, :2] + 0.5 * original + noise[..., :2] - 0.5 * sides
    corner, sides = np.rint(corner), np.rint(sides)
    return np.concatenate([corner, np.where(sides <= 1, small[:, :, 1], sides)], axis=-1)


def of_rows(draw: Any, seed: int, stream: int, rows: np.ndarray, numbers: int) -> np.ndarray:
    """`draw` (`counter_uniform`, `counter_normal`) for these rows (n,), ascending: one request for each run of neighbouring rows."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return np.concatenate([draw(seed, stream, int(run[0]) if len(run) else 0, len(run), numbers) for run in runs])
