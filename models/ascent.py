"""ATOM's ascent: the predicted IoU of boxes and its gradient in the boxes, in closed form.

The head is pooling, two linear layers with a ReLU behind and one linear number, so its gradient is the same few matrix products backwards.
Without autograd a step is a plain function of tensors: faster, and ONNX can hold it.

Letters: B images, N boxes an image, C channels, H rows, W columns, P bins a side, D the head's width. Boxes (x, y, w, h), crop pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.heads import SCALE3, SCALE4, Head, LinearBlock

Pair = tuple[Tensor, Tensor]
BINS = ((5, SCALE3), (3, SCALE4))
"""Of layer2 and layer3: P, and cells a pixel."""
EDGES = [size + 1 for size, _ in BINS]


class Ascent(nn.Module):
    """The predictions of an IoU head in eval mode and their gradient; what does not change from box to box is computed once."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.register_buffer("bias", head.iou_predictor.bias)
        weights = head.iou_predictor.weight[0].split(head.fc3_rt.linear.out_features)
        for number, (block, (size, _)) in enumerate(zip((head.fc3_rt, head.fc4_rt), BINS, strict=True)):
            for name, tensor in zip(("matrix", "bias", "weight"), (*_folded(block, size), weights[number]), strict=True):
                self.register_buffer(f"{name}{number}", tensor.detach().contiguous())
        # the edges of the bins of both levels, one behind the other, as shares of the box; the bin between the levels is nobody's
        shares = [torch.arange(size + 1, dtype=torch.float64) / size for size, _ in BINS]
        scales = [torch.full((size + 1,), scale, dtype=torch.float64) for size, scale in BINS]
        sizes = [torch.full((size + 1,), size, dtype=torch.float64) for size, _ in BINS]
        for name, tensors in (("shares", shares), ("scales", scales), ("sizes", sizes)):
            self.register_buffer(name, torch.cat(tensors).to(head.iou_predictor.bias.device))

    def forward(self, modulation: Pair, lines: Pair, boxes: Tensor) -> Pair:
        """boxes (B, N, 4) -> predictions (B, N) and their gradient in the boxes (B, N, 4); float32.

        modulation: vectors (B, D) of `Head.modulation`; lines: `lines_of` the maps of `Head.encode`.
        """
        shares, scales = self.get_buffer("shares"), self.get_buffer("scales")
        # float64 until there are weights: they are differences of integrals
        start, length = boxes.double().reshape(-1, 4).T.reshape(2, 2, -1, 1)
        edges = (start + length * shares) * scales
        near = [_near(level, part) for level, part in zip(lines, edges.split(EDGES, dim=-1), strict=True)]
        weights, ways = self._weights(edges, length, near)
        prediction, gradient = self.get_buffer("bias"), torch.zeros((), device=boxes.device)
        for number, (level, _) in enumerate(near):
            cells, own = level.shape[1], slice(number * EDGES[0], number * EDGES[0] + BINS[number][0])
            value, back = self._level(number, modulation[number].float(), level.flatten(2), weights[:, :, own, :cells])
            prediction = prediction + value
            gradient = gradient + ways[:, :, :, own, :cells].flatten(3) @ back
        shape = boxes.shape[:2]
        return prediction.reshape(shape), gradient[..., 0].permute(1, 2, 0).reshape(*shape, 4)

    def _weights(self, edges: Tensor, length: Tensor, near: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """What a cell weighs in the mean of a bin: (2, n, bins, cells) float32, of columns and of rows, for n = B * N boxes.

        As `models.prroi.bin_weights`; zeros where a box has no side. And the derivatives (2, n, 2, bins, cells) in position and side of
        the boxes: that of the integral of a hat function up to an edge is the hat function there. edges (2, n, edges) of the bins in
        cells, length (2, n, 1) of the boxes in pixels, near: of `_near`, a level each; the cells are counted from its first.
        """
        shares, scales, sizes = (self.get_buffer(name) for name in ("shares", "scales", "sizes"))
        cells = max(lines.shape[1] for lines, _ in near)
        first = torch.cat([first[:, None].expand(-1, count) for (_, first), count in zip(near, EDGES, strict=True)], dim=1)
        offset = (edges - first[:, None])[..., None] - torch.arange(cells, dtype=edges.dtype, device=edges.device)
        inverse = torch.where(length > 0, 1 / length, 0)[..., None]
        factor = inverse * sizes[:-1, None]
        inner, hats = offset.clamp(-1, 1), (1 - offset.abs()).clamp(min=0)
        means = _between(inner - 0.5 * inner * inner.abs()) * (factor / scales[:-1, None])
        moved, grown = _between(hats) * factor, _between(hats * shares[:, None]) * factor - means * inverse
        return means.float(), torch.stack([moved, grown], dim=2).float()

    def _level(self, number: int, vector: Tensor, lines: Tensor, weights: Tensor) -> Pair:
        """What a level adds to the predictions (n), and the gradient in the weights, (2, n, P * cells, 1).

        vector (B, C); lines (B, cells, C * cells): its map near the boxes; weights (2, n, P, cells).
        """
        matrix, bias, weight = (self.get_buffer(f"{name}{number}") for name in ("matrix", "bias", "weight"))
        columns, rows = weights
        (count, size, cells), batch = columns.shape, lines.shape[0]
        # pooled: the rows of all boxes of an image together, then the columns
        strips = torch.bmm(rows.reshape(batch, -1, cells), lines).reshape(count, -1, cells)
        bins = torch.bmm(strips, columns.transpose(1, 2)).reshape(batch, -1, size, vector.shape[1], size)
        vector = vector[:, None, None, :, None]
        hidden = functional.linear((bins * vector).reshape(count, -1), matrix, bias)
        # and back
        back = ((((hidden > 0) * weight) @ matrix).reshape(bins.shape) * vector).reshape(count, -1, size)
        spread = torch.bmm(back, columns).reshape(batch, -1, lines.shape[2])
        of_rows = torch.bmm(spread, lines.transpose(1, 2)).reshape(count, size, cells)
        in_weights = torch.stack([torch.bmm(back.transpose(1, 2), strips), of_rows])
        return hidden.clamp(min=0) @ weight, in_weights.flatten(2)[..., None]


def lines_of(maps: Pair) -> Pair:
    """Maps (B, C, H, W) as (B, H, C, W), float32: their rows are pooled first."""
    first, second = (features.float().transpose(1, 2).contiguous() for features in maps)
    return first, second


def _folded(block: LinearBlock, size: int) -> tuple[Tensor, Tensor]:
    """Matrix and bias of a `Level`: the linear layer with its BatchNorm in eval mode."""
    norm, linear = block.bn, block.linear
    assert norm.running_var is not None and norm.running_mean is not None
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    # the layer's inputs are (C, P, P), the bins of `Pooled` (P, C, P)
    matrix = (linear.weight * factor[:, None]).reshape(len(factor), -1, size, size).transpose(1, 2).flatten(1)
    return matrix, (linear.bias - norm.running_mean) * factor + norm.bias


def _near(lines: Tensor, edges: Tensor) -> Pair:
    """The square of a map (B, H, C, W), H = W, that the boxes touch, all together, (B, cells, C, cells), and its first column and row (2,).

    edges (2, n, P + 1) of their bins, in cells: no other cell has a weight. On a GPU the whole map, which costs less than to wait for
    where the boxes are.
    """
    most = lines.shape[1]
    if edges.is_cuda:
        return lines, edges.new_zeros(2)
    low = edges.amin(dim=(1, 2)).nan_to_num(0).floor().clamp(0, most - 1).long()
    high = edges.amax(dim=(1, 2)).nan_to_num(1e6).ceil().clamp(0, most - 1).long()
    side = (high - low).amax() + 1
    first = torch.minimum(low, most - side)
    x, y = first.unbind()
    return lines[:, y : y + side, :, x : x + side], first


def _between(edges: Tensor) -> Tensor:
    """(2, n, edges, cells) -> differences of neighbours."""
    return edges[..., 1:, :] - edges[..., :-1, :]
