"""Precise RoI pooling as its definition says it, one bin at a time: what the networks' tests compare with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest


def interpolated(features: np.ndarray, y: float, x: float) -> np.ndarray:
    """The bilinear interpolation of (C, H, W) at one point; zero outside the cells' reach."""
    value = np.zeros(len(features))
    for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= i < features.shape[1] and 0 <= j < features.shape[2]:
            value += features[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return value


def pieces(start: float, stop: float) -> list[tuple[float, float]]:
    """[start, stop] cut at every integer, as (middle, length)."""
    cuts = [start, *range(math.floor(start) + 1, math.ceil(stop)), stop]
    return [((a + b) / 2, b - a) for a, b in itertools.pairwise(cuts)]


def pool(features: np.ndarray, boxes: np.ndarray, size: int, scale: float) -> np.ndarray:
    """features (B, C, H, W), boxes (B, N, 4) -> (B, N, C, size, size).

    Between integers the interpolation is bilinear, so its integral over a piece is its value in the middle times the area: exact.
    """
    out = np.zeros((*boxes.shape[:2], features.shape[1], size, size))
    for b, n, p, q in itertools.product(range(boxes.shape[0]), range(boxes.shape[1]), range(size), range(size)):
        x, y, w, h = (float(number) * scale for number in boxes[b, n])
        if w > 0 and h > 0:
            rows = pieces(y + p * h / size, y + (p + 1) * h / size)
            columns = pieces(x + q * w / size, x + (q + 1) * w / size)
            total = sum(interpolated(features[b], r, c) * dr * dc for (r, dr), (c, dc) in itertools.product(rows, columns))
            out[b, n, :, p, q] = total / (w / size * h / size)
    return out


@pytest.fixture
def plain_pool() -> Callable[[np.ndarray, np.ndarray, int, float], np.ndarray]:
    return pool
