"""Tracking: the response of a discriminative correlation filter learnt from the student's ref features, on its test features. No teacher.

Letters: B pairs, C channels, H W rows and columns; x^ is the 2-D DFT of x. Source: Wang et al., arXiv:1907.09831.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import Tracking as Term
from kdlosses.basic import layer_of
from kdlosses.gaussian import gaussian
from kdlosses.needs import Needs, Networks
from kdlosses.pairs import Pairs
from models import STRIDES, Outputs


def tracking(ref: Tensor, test: Tensor, pairs: Pairs, stride: int, sigma: float, regularisation: float) -> Tensor:
    """MSE of r = irfft(conj(w^) z^) against the Gaussian at the test target, every channel, of one layer. Scalar.

    w^ = conj(y^) x^ / (sum over channels of |x^|^2 + regularisation), y the Gaussian at the ref target; x = ref, z = test (B, C, H, W)
    float32; sigma in map sides.
    """
    height, width = shape = (ref.shape[-2], ref.shape[-1])
    x, z = torch.fft.rfft2(ref), torch.fft.rfft2(test)
    y, wanted = (torch.fft.rfft2(gaussian(box, shape, stride, sigma)) for box in (pairs.ref_box, pairs.test_box))
    energy = torch.view_as_real(x).square().sum((1, -1)) + regularisation
    difference = x.conj() * z * (y / energy)[:, None] - wanted[:, None]
    # Parseval: the squares summed over the spectrum are those of the map, so no channel is transformed back; the half spectrum
    # holds every column but the first and, for an even width, the last twice
    twice = torch.full((width // 2 + 1,), 2.0, device=ref.device, dtype=ref.dtype)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    squares = torch.view_as_real(difference).square().sum(-1)
    return (squares * twice).sum() / (ref.numel() * height * width)


class Tracking(nn.Module):
    """The term losses.tracking, summed over its layers."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.term, self.needs = term, Needs((), term.layers)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        terms = [
            tracking(
                layer_of(outputs.ref, layer, "tracking"),
                layer_of(outputs.test, layer, "tracking"),
                pairs,
                STRIDES[layer],
                self.term.sigma,
                self.term.regularisation,
            )
            for layer in self.term.layers
        ]
        return sum(terms[1:], terms[0])
