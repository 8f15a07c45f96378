"""The optimiser of the online classifier: Gauss-Newton rounds of conjugate-gradient steps, with J^T J in closed form.

Letters: n samples, H, W rows and columns, C channels of the features, K of the projection, T = k * k taps of a filter of side k.

The response of a filter f (T, K) behind a projection P (K, C) is the correlation of the features with the effective filter E = f P (T, C),
then the activation a. Minimised over f, or f and P together (Danelljan et al., ATOM, arXiv:1811.07628):
    sum_j w_j |a(E * x_j) - y_j|^2 + regularisation_f |f|^2 + regularisation_P |P|^2.
Whatever moves f and P moves the response through dE = df P + f dP, and every gradient comes back through the (T, C) gradient in E. So a
product with J^T J is two products of all features with T vectors of C numbers, whatever K is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FLOOR = 0.05
"""The response activation is the identity above 0 and tends to -FLOOR below."""


@dataclass
class Samples:
    """What the classifier learns from; all on one device."""

    features: Tensor
    """(n, H, W, C) float32"""
    labels: Tensor
    """(n, H, W)"""
    weights: Tensor
    """(n,)"""


def activation(response: Tensor) -> Tensor:
    """elu(leaky_relu(r, 1 / FLOOR), FLOOR): r above 0, FLOOR * (exp(r / FLOOR) - 1) below."""
    return functional.elu(functional.leaky_relu(response, 1 / FLOOR), FLOOR)


def slope(response: Tensor) -> Tensor:
    """The derivative of `activation`: 1 above 0, exp(r / FLOOR) below."""
    return (response.clamp(max=0) / FLOOR).exp()


def correlate(features: Tensor, taps: Tensor) -> Tensor:
    """features (n, H, W, C), taps (T, C) -> (n, H, W): out[i, j] = sum over a, b of taps[a, b] . x[i + a - k // 2, j + b - k // 2]."""
    n, height, width, channels = features.shape
    maps = (taps @ features.reshape(-1, channels).T).reshape(-1, n, height, width)
    out = torch.zeros_like(maps[0])
    for tap, (to, of) in zip(maps, _shifts(len(taps), height, width), strict=True):
        out[to] += tap[of]
    return out


def correlate_back(features: Tensor, response: Tensor, taps: int) -> Tensor:
    """The transpose of `correlate` in the taps: features (n, H, W, C), response (n, H, W) -> (T, C)."""
    n, height, width, channels = features.shape
    maps = response.new_zeros(taps, n, height, width)
    for tap, (to, of) in zip(maps, _shifts(taps, height, width), strict=True):
        tap[of] = response[to]
    return maps.reshape(taps, -1) @ features.reshape(-1, channels)


def _shifts(taps: int, height: int, width: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For every tap: which outputs it reaches, and from which cells. Cells outside the map count as zeros."""
    side = round(taps**0.5)
    pairs = []
    for a in range(-(side // 2), side - side // 2):
        for b in range(-(side // 2), side - side // 2):
            to, of = zip(*(_shift(offset, length) for offset, length in ((a, height), (b, width))), strict=True)
            pairs.append(((slice(None), *to), (slice(None), *of)))
    return pairs


def _shift(offset: int, length: int) -> tuple[slice, slice]:
    inner = max(length - abs(offset), 0)
    return slice(max(-offset, 0), max(-offset, 0) + inner), slice(max(offset, 0), max(offset, 0) + inner)


Product = Callable[[Tensor], Tensor]


def conjugate_gradient(multiply: Product, right: Tensor, steps: int, preconditioner: Tensor) -> Tensor:
    """About the x of multiply(x) = right, for a symmetric positive definite product, from 0, after that many steps.

    Polak-Ribiere, its beta not below 0; preconditioner: an approximate inverse of the diagonal. Nothing here waits for the device.
    """
    x, residual = torch.zeros_like(right), right
    direction = descent = preconditioner * residual
    length = residual @ descent
    for _ in range(steps):
        product = multiply(direction)
        curvature = direction @ product
        # a residual of exactly 0 has nothing left to do: 0 / 0 counts as 0
        x = x + torch.where(curvature > 0, length / curvature, 0) * direction
        before, residual = residual, residual - torch.where(curvature > 0, length / curvature, 0) * product
        descent = preconditioner * residual
        old, length = length, residual @ descent
        beta = torch.where(old > 0, (length - before @ descent) / old, 0).clamp(min=0)
        direction = descent + beta * direction
    return x


@dataclass
class Regularisation:
    """Weights of the squares."""

    filter: float
    projection: float


def fit_both(
    samples: Samples, taps: Tensor, projection: Tensor, regularisation: Regularisation, rounds: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Filter (T, K) and projection (K, C) together: Gauss-Newton rounds, each with that many conjugate-gradient steps."""
    count, width = taps.shape
    flat = torch.cat([taps.flatten(), projection.flatten()])
    weight = torch.full_like(flat, regularisation.projection)
    weight[: taps.numel()] = regularisation.filter

    def parts(vector: Tensor) -> tuple[Tensor, Tensor]:
        return vector[: taps.numel()].reshape(count, width), vector[taps.numel() :].reshape(width, -1)

    for _ in range(rounds):
        now_taps, now_projection = parts(flat)

        def forward(vector: Tensor, f: Tensor = now_taps, p: Tensor = now_projection) -> Tensor:
            df, dp = parts(vector)
            return df @ p + f @ dp

        def back(gradient: Tensor, f: Tensor = now_taps, p: Tensor = now_projection) -> Tensor:
            return torch.cat([(gradient @ p.T).flatten(), (f.T @ gradient).flatten()])

        flat = flat + _round(samples, now_taps @ now_projection, flat, weight, (forward, back), steps)
    return parts(flat)


def fit_filter(samples: Samples, taps: Tensor, regularisation: float, steps: int) -> Tensor:
    """The filter (T, C) alone on projected features: one Gauss-Newton round."""
    flat = taps.flatten()
    weight = torch.full_like(flat, regularisation)
    step = _round(samples, taps, flat, weight, (lambda v: v.reshape(taps.shape), lambda g: g.flatten()), steps)
    return taps + step.reshape(taps.shape)


def _round(samples: Samples, effective: Tensor, flat: Tensor, weight: Tensor, maps: tuple[Product, Product], steps: int) -> Tensor:
    """The step of one Gauss-Newton round in the flat parameters; maps: from them to the effective filter (T, C) and back, linearised."""
    forward, back = maps
    features, taps = samples.features, len(effective)
    response = correlate(features, effective)
    weighted = samples.weights[:, None, None] * slope(response)
    curvature = weighted * slope(response)
    right = -back(correlate_back(features, weighted * (activation(response) - samples.labels), taps)) - weight * flat

    def multiply(vector: Tensor) -> Tensor:
        return back(correlate_back(features, curvature * correlate(features, forward(vector)), taps)) + weight * vector

    return conjugate_gradient(multiply, right, steps, 1 / weight)
