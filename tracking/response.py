"""Responses of the classifier: the labels it learns, and a response at the resolution of the crop.

Letters: n samples, H rows, W columns of the map. Positions are (x, y) in crop pixels; cell i of a map lies at i * stride.
A filter of even side has no middle cell: at output i it lies half a cell before, so everything here stands half a cell further.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def gaussian_labels(centers: np.ndarray, sigma: float, cells: int, stride: int, kernel: int) -> np.ndarray:
    """Gaussians of height 1 at target centres (n, 2) in crop pixels, sigma in cells -> (n, cells, cells) float32, rows first."""
    place = centers / stride + _shift(kernel)
    axis = np.exp(-((np.arange(cells) - place[..., None]) ** 2) / (2 * sigma**2))
    return (axis[:, 1, :, None] * axis[:, 0, None, :]).astype(np.float32)


def upsampling(cells: int, stride: int, size: int, kernel: int) -> Tensor:
    """The matrix (size, cells) that interpolates a row of responses at every crop pixel: its Fourier series, whose sum is closed.

    The response (cells, cells) becomes matrix @ response @ matrix.T, (size, size).
    """
    places = torch.arange(size, dtype=torch.float64) / stride + _shift(kernel)
    angle = 2 * math.pi / cells * (places[:, None] - torch.arange(cells, dtype=torch.float64))
    # of an even number of cells the highest frequency is a cosine of half weight at either sign: one cosine
    whole = torch.arange(1, (cells - 1) // 2 + 1, dtype=torch.float64)
    waves = 1 + 2 * torch.cos(angle[..., None] * whole).sum(-1)
    if cells % 2 == 0:
        waves = waves + torch.cos(angle * (cells / 2))
    return (waves / cells).float()


def hann_window(size: int) -> Tensor:
    """(size, size), 1 in the middle and 0 outside the crop."""
    row = torch.hann_window(size + 2, periodic=False)[1:-1]
    return row[:, None] * row


def _shift(kernel: int) -> float:
    return 0.0 if kernel % 2 else 0.5
