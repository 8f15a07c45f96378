"""Memory formats of feature maps (B, C, H, W): contiguous, or channels last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def format_of(maps: Tensor) -> torch.memory_format:
    """The memory format of (B, C, H, W); contiguous where both fit."""
    last = not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class _SameFormat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.format = format_of(maps)
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.format)


def same_format(maps: Tensor) -> Tensor:
    """(B, C, H, W) as it is; its gradient comes back in its memory format.

    BatchNorm and activations that get a gradient of another format than their map's run several times slower, and so does all before them.
    """
    if torch.compiler.is_compiling() or not maps.requires_grad:
        # a compiler lays gradients out as it likes
        return maps
    result: Tensor = _SameFormat.apply(maps)
    return result
