"""Cross-correlation of a search map with a pooled target patch, by real FFT.

Letters: B pairs, C channels, H W rows and columns of the map, k the odd side of the patch, p = (k - 1)/2, M a transform's side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models import format_of, prroi_pool
from pairs.batch import Boxes
from pairs.geometry import target_cells

# numbers of one transformed block that a CPU core's cache holds
_CACHED = 2**19


def target_patch(ref: Tensor, boxes: Boxes, stride: int) -> Tensor:
    """The target of each ref map by Precise RoI pooling, in cells of the test map: ref (B, C, H, W) float32 -> (B, C, k, k)."""
    return prroi_pool(ref, boxes.ref_box[:, None], target_cells(boxes.test, stride), 1 / stride)[:, 0]


def fft_size(least: int) -> int:
    """The smallest even number >= least without a prime factor above 5."""
    size = least + least % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def _chunk(test: Tensor, size: tuple[int, int]) -> int:
    """Pairs transformed at once: on a CPU as many as stay near its cache (half the time of a whole batch), elsewhere all."""
    return max(1, _CACHED // (test.shape[1] * size[0] * size[1])) if test.device.type == "cpu" else max(1, len(test))


class _Correlation(torch.autograd.Function):
    """Why not plain autograd: PyTorch's gradient of a real FFT is a complex FFT of full size, twice the work."""

    @staticmethod
    def forward(ctx: Any, test: Tensor, patch: Tensor) -> Tensor:
        (height, width), k = test.shape[-2:], patch.shape[-1]
        # lags -p ... H-1-p reach no further than index H-1+p: with M >= H + p nothing wraps into the part that is kept
        size = (fft_size(height + k // 2), fft_size(width + k // 2))
        chunk = _chunk(test, size)
        spectra, filters, responses = [], [], []
        for maps, patches in zip(test.split(chunk), patch.split(chunk), strict=True):
            # the patch's rows first: the others are zeros
            spectrum = torch.fft.rfft2(maps, s=size)
            filtered = torch.fft.fft(torch.fft.rfft(patches, n=size[1]), n=size[0], dim=-2)
            # the sum over channels comes before the one inverse transform
            responses.append(torch.fft.irfft2(_cross_spectrum(spectrum, filtered), s=size))
            # a teacher's spectra would be hundreds of MB for nothing
            if any(ctx.needs_input_grad):
                spectra.append(spectrum)
                filters.append(filtered)
        ctx.save_for_backward(*spectra, *filters)
        ctx.sizes, ctx.format = (height, width, k, size, chunk), format_of(test)
        return torch.cat(responses).roll((k // 2, k // 2), (1, 2))[:, :height, :width].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        height, width, k, size, chunk = ctx.sizes
        saved = ctx.saved_tensors
        spectra, filters = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        padded = functional.pad(grad, (0, size[1] - width, 0, size[0] - height)).roll((-(k // 2), -(k // 2)), (1, 2))
        # the inverse transforms below leave their factor to this one, whose numbers are few
        waves = torch.fft.rfft2(padded, norm="forward")[:, None].split(chunk)
        of_test, of_patch = None, None
        if ctx.needs_input_grad[0]:
            shape = (len(grad), spectra[0].shape[1], height, width)
            of_test = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.format)
            for part, wave, filtered in zip(of_test.split(chunk), waves, filters, strict=True):
                part.copy_(torch.fft.irfft2(_times(wave, filtered), s=size, norm="forward")[..., :height, :width])
        if ctx.needs_input_grad[1]:
            few = (_few(_times_conjugate(spectrum, wave), size[1], k) for wave, spectrum in zip(waves, spectra, strict=True))
            of_patch = torch.cat(list(few))
        return of_test, of_patch


def _few(spectrum: Tensor, width: int, k: int) -> Tensor:
    """The first k rows and columns of the real inverse transform, without its factor; other rows are dropped before the second step."""
    return torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2, norm="forward")[..., :k, :], n=width, norm="forward")[..., :k]


# Products of complex numbers, for a compiler in real arithmetic, the only one that it fuses.


def _times(left: Tensor, right: Tensor) -> Tensor:
    """left * right."""
    if not torch.compiler.is_compiling():
        return left * right
    (a, b), (c, d) = _parts(left), _parts(right)
    return torch.view_as_complex(torch.stack((a * c - b * d, b * c + a * d), -1))


def _times_conjugate(left: Tensor, right: Tensor) -> Tensor:
    """left * conj(right)."""
    if not torch.compiler.is_compiling():
        return left * right.conj()
    (a, b), (c, d) = _parts(left), _parts(right)
    return torch.view_as_complex(torch.stack((a * c + b * d, b * c - a * d), -1))


def _cross_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """left * conj(right), summed over channels: (B, C, ...) -> (B, ...)."""
    if not torch.compiler.is_compiling():
        return (left * right.conj()).sum(1)
    (a, b), (c, d) = _parts(left), _parts(right)
    return torch.view_as_complex(torch.stack(((a * c + b * d).sum(1), (b * c - a * d).sum(1)), -1))


def _parts(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return real, imaginary


def correlate(test: Tensor, patch: Tensor) -> Tensor:
    """Q[b, y, x] = sum over c, i, j of test[b, c, y + i - p, x + j - p] * patch[b, c, i, j], zeros outside the map.

    test (B, C, H, W), patch (B, C, k, k), k odd. Returns (B, H, W), float32 (float64 for float64 maps). Once differentiable in both.
    """
    if test.dtype != torch.float64:
        test, patch = test.float(), patch.float()
    with torch.autocast(test.device.type, enabled=False):
        result: Tensor = _Correlation.apply(test, patch)
        return result


def response_map(ref: Tensor, test: Tensor, boxes: Boxes, stride: int) -> tuple[Tensor, Tensor]:
    """Q of one layer and the patch it was made with: ref, test (B, C, H, W), H and W of each map -> (B, H, W) of test, (B, C, k, k)."""
    with torch.autocast(test.device.type, enabled=False):
        patch = target_patch(ref.float(), boxes, stride)
        return correlate(test.float(), patch), patch
