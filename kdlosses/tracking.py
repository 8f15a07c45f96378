"""Tracking: the response of a discriminative correlation filter learnt from the student's ref features, on its test features. No teacher.

Letters: B pairs, C channels, H W rows and columns of each image's map; x^ is the 2-D DFT of x. Source: Wang et al., arXiv:1907.09831.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from configs.schema import TrackingTerm
from kdlosses.gaussian import gaussian
from kdlosses.needs import TermModule, student_maps
from models import STRIDES, Outputs
from pairs.batch import Boxes


def tracking(ref: Tensor, test: Tensor, boxes: Boxes, stride: int, sigma: float, regularisation: float) -> Tensor:
    """MSE of r = irfft(conj(w^) z^) against the Gaussian at the test target, every channel, of one layer. Scalar.

    w^ = conj(y^) x^ / (sum over channels of |x^|^2 + regularisation), y the Gaussian at the ref target; x = ref, z = test (B, C, H, W)
    float32; sigma in sides of each map. Of a test map of another size than the ref map w^ is the DFT of w on that map's grid (`on_grid`);
    one cell should be as much of the target in both then: size / area_factor equal in pairs.ref and pairs.test.
    """
    height, width = shape = (test.shape[-2], test.shape[-1])
    x, z = torch.fft.rfft2(ref), torch.fft.rfft2(test)
    y = torch.fft.rfft2(gaussian(boxes.ref_box, (ref.shape[-2], ref.shape[-1]), stride, sigma))
    wanted = torch.fft.rfft2(gaussian(boxes.test_box, shape, stride, sigma))
    shares = (y / (torch.view_as_real(x).square().sum((1, -1)) + regularisation))[:, None]
    if ref.shape == test.shape:
        response = x.conj() * z * shares
    else:
        learnt = torch.fft.irfft2(x * shares.conj(), s=ref.shape[-2:])
        response = torch.fft.rfft2(on_grid(learnt, shape)).conj() * z
    difference = response - wanted[:, None]
    # Parseval: the squares summed over the spectrum are those of the map, so no channel is transformed back; the half spectrum
    # holds every column but the first and, for an even width, the last twice
    columns = torch.arange(width // 2 + 1, device=test.device)
    twice = torch.where((columns == 0) | (2 * columns == width), 1.0, 2.0).to(test.dtype)
    squares = torch.view_as_real(difference).square().sum(-1)
    return (squares * twice).sum() / (test.numel() * height * width)


def on_grid(learnt: Tensor, shape: tuple[int, int]) -> Tensor:
    """A filter on another grid: (B, C, H, W) -> (B, C, *shape).

    It lives around the origin and wraps around: index i of a side n is the lag i, or i - n from n - n // 2 on. Lags that only the new grid
    has become zeros, those that only the old one had are dropped: they are the ones farthest from the target.
    """
    ends = []
    for side, wanted in ((learnt.shape[-1], shape[1]), (learnt.shape[-2], shape[0])):
        before = wanted // 2 - side // 2
        ends += [before, wanted - side - before]
    return torch.fft.ifftshift(functional.pad(torch.fft.fftshift(learnt, (-2, -1)), ends), (-2, -1))


class Tracking(TermModule[TrackingTerm]):
    """The term of `TrackingTerm`, summed over its layers."""

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        terms = [
            tracking(ref, test, boxes, STRIDES[layer], self.term.sigma, self.term.regularisation)
            for layer, ref, test in student_maps(outputs, self.term.layers)
        ]
        return reduce(torch.add, terms)
