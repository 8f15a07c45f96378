"""The numbers of the target response (TSKD, Liu et al., arXiv:1907.10586) of one layer, of student and teacher alike.

Letters: B pairs, C channels, H W rows and columns, k the side of the target patch. F(U) = sum over channels of |U|.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kdlosses.basic import abs_sum
from kdlosses.correlation import response_map, target_patch
from kdlosses.gaussian import gaussian
from pairs.batch import Boxes

SIGMA = 0.25
"""of the Gaussian weights, in map sides"""


class Response(NamedTuple):
    """Numbers a pair; the batch-wide normalisation of the weights is composed from them by the loss."""

    weighted: Tensor
    """(B, H, W) F(test) * |weight| = F(test * weight)"""
    weight_sum: Tensor
    """(B,) sum of the weights"""
    patch: Tensor
    """(B, k, k) F(patch)"""


def response(ref: Tensor, test: Tensor, boxes: Boxes, stride: int, weights: str) -> Response:
    """ref, test (B, C, H, W) float32; weights "correlation" (Q of the pair's own patch) or "gaussian" (around the test box)."""
    if weights == "correlation":
        weight, patch = response_map(ref, test, boxes, stride)
    else:
        weight = gaussian(boxes.test_box, (test.shape[-2], test.shape[-1]), stride, SIGMA)
        patch = target_patch(ref, boxes, stride)
    return Response(abs_sum(test) * weight.abs(), weight.sum((1, 2)), abs_sum(patch))
