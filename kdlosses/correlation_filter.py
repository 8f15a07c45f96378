"""Correlation filter (CF): the student's own response to its target patch against a Gaussian at the target. No teacher.

Letters: B pairs, C channels, H W rows and columns of each image's map. Source: Duolikun, UCL 2020 (text: maximum a pair; public code: a
batch).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from configs.schema import CorrelationFilterTerm
from kdlosses.basic import regress
from kdlosses.correlation import response_map
from kdlosses.gaussian import gaussian
from kdlosses.needs import TermModule, student_maps
from models import STRIDES, Outputs
from pairs.batch import Boxes


def correlation_filter(ref: Tensor, test: Tensor, boxes: Boxes, stride: int, sigma: float, normalise: Literal["batch", "pair"]) -> Tensor:
    """MSE of Q / max(Q) against the Gaussian of peak 1 at the test box, of one layer. Scalar.

    ref, test (B, C, H, W); sigma in sides of the test map; normalise: the maximum over the batch or over each pair. It is differentiated
    through.
    """
    response, _ = response_map(ref, test, boxes, stride)
    peak = response.amax() if normalise == "batch" else response.amax((1, 2), keepdim=True)
    # a response that is 0 everywhere (dead channels) stays 0
    response = response / torch.where(peak == 0, 1.0, peak)
    return regress("mse", response, gaussian(boxes.test_box, (test.shape[-2], test.shape[-1]), stride, sigma))


class CorrelationFilter(TermModule[CorrelationFilterTerm]):
    """The term of `CorrelationFilterTerm`, summed over its layers."""

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        terms = [
            correlation_filter(ref, test, boxes, STRIDES[layer], self.term.sigma, self.term.normalise)
            for layer, ref, test in student_maps(outputs, self.term.layers)
        ]
        return reduce(torch.add, terms)
