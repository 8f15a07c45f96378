"""The samples of the first frame: the target shifted, mirrored, blurred and rotated (ATOM, arXiv:1811.07628). Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from pairs.streams import TRACKED_SHIFT, counter_uniform
from tracking.patches import Patch

RELATIVE_SHIFTS = ((0.6, 0.6), (-0.6, 0.6), (0.6, -0.6), (-0.6, -0.6))
"""x, y in halves of the target's sides"""
BLURS = ((2, 0.2), (0.2, 2), (3, 1), (1, 3), (2, 2))
"""sigma in pixels along the rows, along the columns"""
ROTATIONS = (5, -5, 10, -10, 20, -20, 30, -30, 45, -45, 60, -60)
"""degrees"""
RANDOM_SHIFT = 1 / 3
"""range of the shift of every sample but the first, in crop sides"""
THINNED, THINNING = 7, 0.2
"""copies of the first sample, and the probability that one of their channels is dropped"""


class Change(NamedTuple):
    """What is done to one sample."""

    matrix: np.ndarray
    """(2, 2) from the sample's pixels to those of the patch, around the target"""
    shift: tuple[float, float] = (0.0, 0.0)
    """in halves of the target's sides"""
    blur: tuple[float, float] | None = None


def changes() -> Iterator[Change]:
    """Of every sample but the first."""
    plain = np.eye(2)
    yield from (Change(plain, shift) for shift in RELATIVE_SHIFTS)
    yield Change(np.diag([-1.0, 1.0]))
    yield from (Change(plain, blur=blur) for blur in BLURS)
    for degrees in ROTATIONS:
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        yield Change(np.array([[cosine, sine], [-sine, cosine]]))


def augmented(wide: Patch, target: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The changed samples (22, size, size, 3) uint8, and where the target's centre lies in each, (22, 2) x, y.

    wide: a patch of twice the side and twice the size of a sample; target (4,) the box in it.
    """
    every = list(changes())
    uniform = counter_uniform(seed, TRACKED_SHIFT[0], 0, len(every), 2)
    centers = (size - 1) / 2 + (uniform - 0.5) * size * RANDOM_SHIFT + np.array([c.shift for c in every]) * target[2:] / 2
    middle = target[:2] + target[2:] / 2
    samples = []
    for change, center in zip(every, centers, strict=True):
        image = wide.image if change.blur is None else cv2.GaussianBlur(wide.image, (0, 0), change.blur[0], sigmaY=change.blur[1])
        affine = np.column_stack([change.matrix, middle - change.matrix @ center])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        samples.append(cv2.warpAffine(image, affine, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(samples), centers
