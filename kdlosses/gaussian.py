"""Gaussian labels of a target's place in a feature map. Letters: B pairs, H W rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(box: Tensor, shape: tuple[int, int], stride: int, sigma: float) -> Tensor:
    """A Gaussian of peak 1 around the centre of each box, differentiable in the box.

    box (B, 4) (x, y, w, h) in crop pixels; shape (H, W) of the map; stride: crop pixels a cell; sigma in map sides.
    Index i stands at i - (side - 1)/2 and the centre c at c/stride - side/2 (public CFKD code): cell i covers the pixels
    i * stride ... (i + 1) * stride and stands for their middle. Returns (B, H, W) float32 in (0, 1].
    """
    box = box.float()
    centre = (box[:, :2] + box[:, 2:] / 2) / stride
    columns, rows = (_bell(centre[:, axis], shape[1 - axis], sigma) for axis in (0, 1))
    return rows[:, :, None] * columns[:, None, :]


def _bell(centre: Tensor, side: int, sigma: float) -> Tensor:
    """One axis: centre (B,) in cells -> (B, side)."""
    place = torch.arange(side, device=centre.device, dtype=centre.dtype) - (side - 1) / 2
    return torch.exp(-0.5 * ((place - (centre[:, None] - side / 2)) / (sigma * side)) ** 2)
