"""Ground-truth labels of the proposals. Letters: B pairs, N proposals; boxes (x, y, w, h) in crop pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from pairs.batch import Boxes
from pairs.boxes import box_iou


def iou_label(proposals: Tensor, test_box: Tensor) -> Tensor:
    """ATOM's label: IoU * 2 - 1.

    proposals (B, N, 4), test_box (B, 4). Returns (B, N) in [-1, 1].
    """
    return box_iou(proposals, test_box[:, None]) * 2 - 1


def box_label(proposals: Tensor, test_box: Tensor) -> Tensor:
    """DRNet's label of a proposal p against ground truth g: ((gx - px)/pw, (gy - py)/ph) of the centres, log(gw/pw), log(gh/ph).

    proposals (B, N, 4), test_box (B, 4), sides > 0. Returns (B, N, 4).
    """
    truth = test_box[:, None]
    sides = proposals[..., 2:]
    shift = (truth[..., :2] + truth[..., 2:] / 2 - proposals[..., :2] - sides / 2) / sides
    return torch.cat([shift, torch.log(truth[..., 2:] / sides)], dim=-1)


def label(boxes: Boxes, numbers: int) -> Tensor:
    """The label that a head with `numbers` numbers a proposal is trained on: (B, N) for 1 (ATOM), (B, N, 4) for 4 (DRNet)."""
    return (iou_label if numbers == 1 else box_label)(boxes.proposals, boxes.test_box)
