"""ATOM's ascent: the predicted IoU of boxes and its gradient in the boxes, in closed form.

The head is pooling, two linear layers with a ReLU behind and one linear number, so its gradient is the same few matrix products backwards.
Without autograd a step is a plain function of tensors: faster, and ONNX can hold it.

Letters: B images, N boxes an image, C channels, H rows, W columns, P bins a side, D the head's width. Boxes (x, y, w, h), crop pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.heads import SCALE3, SCALE4, Head, LinearBlock
from models.prroi import bin_weights


class Level(NamedTuple):
    """What one level of the head needs at every step of an ascent."""

    lines: Tensor
    """(B, H, C * W) its map"""
    vector: Tensor
    """(B, C) of the modulation"""
    matrix: Tensor
    """(D, P * C * P) the linear layer with its BatchNorm, for bins in the order rows, channels, columns"""
    bias: Tensor
    """(D)"""
    weight: Tensor
    """(D) its share of the last layer"""
    size: int
    """P"""
    scale: float
    """cells a pixel"""


class Pooled(NamedTuple):
    """One map pooled at boxes, and what the way back needs."""

    bins: Tensor
    """(B * N, P * C, P): rows and channels, columns"""
    strips: Tensor
    """(B * N, P * C, W): the rows are pooled, the columns not yet"""
    weights: Tensor
    """(2, B * N, P, cells) of the columns and of the rows: maps are square"""


class Ascent(nn.Module):
    """The predictions of an IoU head in eval mode and their gradient; what does not change from box to box is computed once."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.register_buffer("bias", head.iou_predictor.bias)
        weights = head.iou_predictor.weight[0].split(head.fc3_rt.linear.out_features)
        self.bins = ((5, SCALE3), (3, SCALE4))
        for number, (block, (size, _)) in enumerate(zip((head.fc3_rt, head.fc4_rt), self.bins, strict=True)):
            for name, tensor in zip(("matrix", "bias", "weight"), (*_folded(block, size), weights[number]), strict=True):
                self.register_buffer(f"{name}{number}", tensor.detach().contiguous())

    def levels(self, modulation: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor]) -> list[Level]:
        """For vectors (B, D) of `Head.modulation` and maps (B, D, H, W) of `Head.encode`."""
        levels = []
        for number, (features, vector, bins) in enumerate(zip(maps, modulation, self.bins, strict=True)):
            matrix, bias, weight = (self.get_buffer(f"{name}{number}") for name in ("matrix", "bias", "weight"))
            levels.append(Level(features.float().transpose(1, 2).flatten(2), vector.float(), matrix, bias, weight, *bins))
        return levels

    def forward(self, levels: list[Level], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """boxes (B, N, 4) -> predictions (B, N) and their gradient in the boxes (B, N, 4); float32."""
        prediction, gradient = self.get_buffer("bias").expand(boxes.shape[:2]), torch.zeros_like(boxes)
        for level in levels:
            value, slope = _level(level, boxes * level.scale)
            prediction, gradient = prediction + value, gradient + slope * level.scale
        return prediction, gradient


def _folded(block: LinearBlock, size: int) -> tuple[Tensor, Tensor]:
    """Matrix and bias of a `Level`: the linear layer with its BatchNorm in eval mode."""
    norm, linear = block.bn, block.linear
    assert norm.running_var is not None and norm.running_mean is not None
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    # the layer's inputs are (C, P, P), the bins of `Pooled` (P, C, P)
    matrix = (linear.weight * factor[:, None]).reshape(len(factor), -1, size, size).transpose(1, 2).flatten(1)
    return matrix, (linear.bias - norm.running_mean) * factor + norm.bias


def _level(level: Level, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """What one level adds to the prediction (B, N), and the gradient (B, N, 4); boxes in cells of its map."""
    (batch, number), (size, channels) = boxes.shape[:2], (level.size, level.vector.shape[1])
    pooled = _pool(level, boxes)
    vector = level.vector[:, None, None, :, None]
    bins = pooled.bins.reshape(batch, number, size, channels, size)
    hidden = functional.linear((bins * vector).reshape(batch * number, -1), level.matrix, level.bias)
    value = hidden.clamp(min=0) @ level.weight
    back = (torch.where(hidden > 0, level.weight, 0) @ level.matrix).reshape(batch, number, size, channels, size) * vector
    return value.reshape(batch, number), _to_boxes(level, boxes, pooled, back)


def _pool(level: Level, boxes: Tensor) -> Pooled:
    """As `prroi_pool` with scale 1, in two products; boxes (B, N, 4) in cells."""
    (batch, number), cells, size = boxes.shape[:2], level.lines.shape[1], level.size
    weights = bin_weights(*_intervals(boxes), size, cells).float()
    strips = torch.bmm(weights[1].reshape(batch, number * size, cells), level.lines).reshape(batch * number, -1, cells)
    return Pooled(torch.bmm(strips, weights[0].transpose(1, 2)), strips, weights)


def _intervals(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) as start and length (2, B * N) on each axis, float64: weights are differences of integrals."""
    exact = boxes.double().reshape(-1, 4).T
    return exact[:2], exact[2:]


def _to_boxes(level: Level, boxes: Tensor, pooled: Pooled, back: Tensor) -> Tensor:
    """From the gradient in the bins (B, N, P, C, P) to that in the boxes (B, N, 4), in cells."""
    (batch, number), cells, size = boxes.shape[:2], level.lines.shape[1], level.size
    flat = back.reshape(batch * number, -1, size)
    of_columns = torch.bmm(flat.transpose(1, 2), pooled.strips)
    spread = torch.bmm(flat, pooled.weights[0]).reshape(batch, number * size, -1)
    of_rows = torch.bmm(spread, level.lines.transpose(1, 2)).reshape(batch * number, size, cells)
    start, length = _intervals(boxes)
    moved, grown = _to_intervals(torch.stack([of_columns, of_rows]), start, length, pooled.weights)
    return torch.cat([moved, grown]).T.reshape(batch, number, 4)


def _to_intervals(back: Tensor, start: Tensor, length: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient in start and length (2, n) of the bins' interval, from that in their weights (2, n, P, cells); 0 for an empty one.

    The derivative of the integral of a hat function up to an edge is the hat function there.
    """
    size, cells = back.shape[2:]
    full = length > 0
    inverse = torch.where(full, 1 / torch.where(full, length, 1), 0)[..., None, None]
    share = torch.arange(size + 1, dtype=start.dtype, device=start.device) / size
    edges = start[..., None] + length[..., None] * share
    hats = (1 - (edges[..., None] - torch.arange(cells, dtype=start.dtype, device=start.device)).abs()).clamp(min=0)
    late, early = hats[..., 1:, :], hats[..., :-1, :]
    grown = (late * share[1:, None] - early * share[:-1, None]) * size - weights
    moved, grown = ((back * way * inverse).sum(dim=(2, 3)).float() for way in ((late - early) * size, grown))
    return moved, grown
