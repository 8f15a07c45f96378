"""The answer of a classifier that tells a target from what is around it: learnt on a pair's ref features, asked on its test features.

Letters: B pairs, C channels, H W rows and columns of each image's map. It is the online classifier of a tracker in one exact step: ridge
regression of a Gaussian at the target on the features of each cell (Bertinetto et al., arXiv:1805.08136, learn features through it so).
"""

from __future__ import annotations

import torch
from torch import Tensor

from configs.schema import ImageConfig
from kdlosses.gaussian import gaussian
from pairs.batch import Boxes

REGULARISATION = 0.1
"""of the weights, where the features' mean square is 1"""
SIGMA_TARGETS, SIGMA_CELLS = 0.25, 0.75
"""sigma of the Gaussian: a quarter of a target's usual side, as ATOM has it, and no less than this of a cell"""


def label_map(box: Tensor, image: ImageConfig, shape: tuple[int, int], stride: int) -> Tensor:
    """The Gaussian of peak 1 at each box (B, 4) of an image of this geometry -> (B, H, W), shape (H, W) of its map."""
    return gaussian(box, shape, stride, max(SIGMA_TARGETS / image.area_factor, SIGMA_CELLS / shape[0]))


def ridge_answer(ref: Tensor, test: Tensor, boxes: Boxes, stride: int) -> Tensor:
    """ref, test (B, C, H, W) float32, H and W of each map -> the answer (B, H, W) on test, about 1 at the target and 0 elsewhere.

    Each map is divided by its root of mean squares. With x the centred cells of ref (HW, C) and y their centred labels, the weights are
    (x'x / HW + REGULARISATION)^-1 x'y / HW, or, the same by fewer numbers where HW < C, x' (xx' / HW + REGULARISATION)^-1 y / HW.
    Differentiable in both maps.
    """
    labels = label_map(boxes.ref_box, boxes.ref, (ref.shape[-2], ref.shape[-1]), stride).flatten(1)[..., None]
    known, asked = _cells(ref), _cells(test)
    middle, level = known.mean(1, keepdim=True), labels.mean(1, keepdim=True)
    x, y = known - middle, labels - level
    count, channels = x.shape[1:]
    weights = _solved(x.mT @ x / count, x.mT @ y / count) if channels <= count else x.mT @ _solved(x @ x.mT / count, y / count)
    return ((asked - middle) @ weights + level).reshape(len(test), *test.shape[-2:])


def _solved(moments: Tensor, wanted: Tensor) -> Tensor:
    """(M + REGULARISATION)^-1 v of moments M (B, k, k) and v (B, k, 1)."""
    loaded = moments + REGULARISATION * torch.eye(moments.shape[-1], device=moments.device, dtype=moments.dtype)
    # the check that is left out waits for a GPU; what is not finite is found with the losses
    return torch.linalg.solve_ex(loaded, wanted, check_errors=False).result


def _cells(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, HW, C), each map divided by its root of mean squares."""
    return (features * (features.square().mean((1, 2, 3), keepdim=True) + 1e-10).rsqrt()).flatten(2).mT
