"""Fewer mantissa bits of a float16: what is rounded away compresses to nothing."""

from __future__ import annotations

import torch
from torch import Tensor

# bits of a float16 behind its point; above them 5 of the exponent and the sign
MANTISSA_BITS = 10
_INF, _SIGN = 0x7C00, -0x8000


def round_mantissa(values: Tensor, bits: int) -> Tensor:
    """`values` (any shape) as float16 with `bits` (2 to 10) bits of mantissa: the nearest such number, ties to even.

    Within 2^-(bits + 1) of a normal float16, relative; a subnormal one goes to a multiple of 2^-(14 + bits). What lies nearer to 2^16 than
    to the largest such number goes to that number, still within the bound, never to inf. inf (whatever float16 cannot hold) and NaN stay.
    """
    half = values.to(torch.float16)
    pattern, drop = half.view(torch.int16), MANTISSA_BITS - bits
    if drop == 0:
        return half
    magnitude = pattern & ~_SIGN
    # just under half a step, and the rest of it where the kept bits are odd; a carry into the exponent is the next power of two
    rounded = (magnitude + ((1 << (drop - 1)) - 1) + ((magnitude >> drop) & 1)) >> drop << drop
    largest = (_INF - 1) >> drop << drop
    rounded = torch.where(magnitude < _INF, rounded.clamp(max=largest), magnitude)
    return (rounded | (pattern & _SIGN)).view(torch.float16)
