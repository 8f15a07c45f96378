"""Boxes: overlap, mirroring, proposals. Boxes are (x, y, w, h), top-left corner, in crop pixels. Letters: n pairs, N proposals a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np

from configs.errors import RunError
from configs.schema import PairsConfig
from pairs.streams import TRIES, counter_normal, counter_uniform, of_rows

if TYPE_CHECKING:
    from torch import Tensor


@overload
def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray: ...
@overload
def box_iou(a: Tensor, b: Tensor) -> Tensor: ...
def box_iou(a: Any, b: Any) -> Any:
    """IoU in [0, 1] of boxes a (..., 4) and b (..., 4), both numpy arrays or both torch tensors; leading dims broadcast.

    Boxes without area have IoU 0 with everything. Differentiable for torch tensors.
    """
    library: Any = np
    if not isinstance(a, np.ndarray):
        import torch  # boxes are drawn without

        library = torch
    minimum, maximum, where = library.minimum, library.maximum, library.where
    low = maximum(a[..., :2], b[..., :2])
    sides = minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - low
    sides = maximum(sides, sides * 0)
    inter = sides[..., 0] * sides[..., 1]
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - inter
    # divide by 1 where there is no area: a guarded division keeps the gradient finite too
    return inter / where(union > 0, union, union * 0 + 1)


def flip_boxes(boxes: np.ndarray, flip: np.ndarray, size: int) -> np.ndarray:
    """Boxes (n, ..., 4) mirrored left-right where flip (n,), in a crop of `size` pixels a side: x becomes size - 1 - x - w.

    Pixel j is centred at j and mirrored it stands at size - 1 - j.
    """
    mirrored = boxes.copy()
    mirrored[flip, ..., 0] = size - 1 - boxes[flip, ..., 0] - boxes[flip, ..., 2]
    return mirrored


def draw_proposals(test_box: np.ndarray, seed: int, first: int | np.ndarray, stream0: int, pairs: PairsConfig) -> np.ndarray:
    """N perturbed boxes around each test box (ATOM, arXiv:1811.07628; numbers of `pairs`).

    test_box (n, 4) float64 with positive sides; row i belongs to pair first + i, or to first[i] where `first` is an ascending int array
    (n,); stream0: the first of as many streams of `seed` as `streams.PROPOSALS` has. Returns (n, N, 4) float32; a row is a pure function
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
