"""Precise RoI pooling (Jiang et al., ECCV 2018, arXiv:1807.11590) as two matrix products.

Letters: B images, N boxes an image, C channels, H rows, W columns, P bins a side.

The mean of the bilinearly interpolated map over a bin is separable. With the hat function h_k(x) = max(0, 1 - |x - k|),
    out[c, p, q] = sum_ij Wy[p, i] f[c, i, j] Wx[q, j],    Wy[p, i] = (integral of h_i over the bin's rows) / (bin height).
So there is nothing to sample and no extension to compile; autograd gives both gradients, that of the map and that of the boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.layout import format_of, same_format


def prroi_pool(features: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """The mean of each of size x size bins of every box.

    features (B, C, H, W): cell (i, j) stands at the point x = j, y = i of the map; outside the map the function is zero.
    boxes (B, N, 4): (x, y, w, h) in crop pixels; times `scale` they are in map cells.
    Returns (B, N, C, size, size) float32 (float64 for float64 features), whatever autocast says. A bin without area gives 0
    and no gradient; what a box covers outside the map counts as zeros in its mean.
    """
    with torch.autocast(features.device.type, enabled=False):
        exact = torch.float64 if features.dtype == torch.float64 else torch.float32
        # The weights are few and differences of integrals: in float32 a bin of 1/30 cell would be off by 1e-5.
        features, boxes = same_format(features.to(exact)), boxes.double() * scale
        (batch, channels, height, width), number = features.shape, boxes.shape[1]
        # both axes at once: on a GPU half the kernels
        weights = bin_weights(boxes[..., :2], boxes[..., 2:], size, max(height, width)).to(exact)
        columns, rows = weights[:, :, 0, :, :width], weights[:, :, 1, :, :height].reshape(batch, number * size, height)
        # Each map is read once, by the rows of all its boxes together; what a box then has left is (size, C, W), not (C, H, W).
        if format_of(features) == torch.channels_last:
            lines = features.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
            strips = torch.bmm(rows, lines).reshape(batch, number, size, width, channels)
            return (columns[:, :, None] @ strips).permute(0, 1, 4, 2, 3)
        lines = features.transpose(1, 2).reshape(batch, height, channels * width)
        strips = torch.bmm(rows, lines).reshape(batch * number, size * channels, width)
        bins = torch.bmm(strips, columns.reshape(batch * number, size, width).transpose(1, 2))
        return bins.reshape(batch, number, size, channels, size).transpose(2, 3)


def bin_weights(start: Tensor, length: Tensor, size: int, cells: int) -> Tensor:
    """The integrals of every cell's hat function over `size` equal bins of [start, start + length], divided by the bin length.

    start, length (...) in cells; returns (..., size, cells). Bins without length get zeros.
    """
    step = length / size
    edges = start[..., None] + step[..., None] * torch.arange(size + 1, dtype=start.dtype, device=start.device)
    # With u = clamp(x - k, -1, 1), the integral of h_k up to x is 1/2 + u - u|u|/2; the 1/2 cancels in the difference.
    offset = (edges[..., None] - torch.arange(cells, dtype=start.dtype, device=start.device)).clamp(-1, 1)
    integral = offset - 0.5 * offset * offset.abs()
    full = step > 0
    # The inner where keeps the gradient of an empty bin at 0 instead of 0 * inf.
    factor = torch.where(full, 1 / torch.where(full, step, 1), 0)
    return (integral[..., 1:, :] - integral[..., :-1, :]) * factor[..., None, None]
