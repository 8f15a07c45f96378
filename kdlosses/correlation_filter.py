"""Correlation filter (CF): the student's own response to its target patch against a Gaussian at the target. No teacher.

Letters: B pairs, C channels, H W rows and columns. Source: Duolikun, UCL 2020 (text: maximum a pair; public code: a batch).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from configs.schema import CorrelationFilter as Term
from kdlosses.basic import layer_of, regress
from kdlosses.correlation import response_map
from kdlosses.gaussian import gaussian
from kdlosses.needs import Needs, Networks
from kdlosses.pairs import Pairs
from models import STRIDES, Outputs

NAME = "correlation_filter"


def correlation_filter(ref: Tensor, test: Tensor, pairs: Pairs, stride: int, sigma: float, normalise: Literal["batch", "pair"]) -> Tensor:
    """MSE of Q / max(Q) against the Gaussian of peak 1 at the test box, of one layer. Scalar.

    ref, test (B, C, H, W); sigma in map sides; normalise: the maximum over the batch or over each pair. It is differentiated through.
    """
    response, _ = response_map(ref, test, pairs, stride)
    peak = response.amax() if normalise == "batch" else response.amax((1, 2), keepdim=True)
    # a response that is 0 everywhere (dead channels) stays 0
    response = response / torch.where(peak == 0, 1.0, peak)
    return regress("mse", response, gaussian(pairs.test_box, (test.shape[-2], test.shape[-1]), stride, sigma), NAME)


class CorrelationFilter(nn.Module):
    """The term losses.correlation_filter, summed over its layers."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.term, self.needs = term, Needs((), term.layers)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        terms = [
            correlation_filter(
                layer_of(outputs.ref, layer, NAME),
                layer_of(outputs.test, layer, NAME),
                pairs,
                STRIDES[layer],
                self.term.sigma,
                self.term.normalise,
            )
            for layer in self.term.layers
        ]
        return sum(terms[1:], terms[0])
