"""The classifier's optimiser against a dense solve of the same small problem, and its products against plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tracking.optimiser import (
    Regularisation,
    Samples,
    activation,
    conjugate_gradient,
    correlate,
    correlate_back,
    fit_both,
    fit_filter,
    slope,
)


@pytest.fixture
def samples() -> Samples:
    torch.manual_seed(0)
    return Samples(torch.randn(3, 6, 7, 4).double(), torch.rand(3, 6, 7).double(), torch.tensor([0.5, 0.3, 0.2]).double())


def plain(features: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """`correlate` by a convolution: an even filter is padded by one cell more before than behind."""
    side = round(len(taps) ** 0.5)
    before, behind = side // 2, (side - 1) // 2
    padded = functional.pad(features.permute(0, 3, 1, 2), (before, behind, before, behind))
    return functional.conv2d(padded, taps.T.reshape(1, -1, side, side).contiguous())[:, 0]


def loss(samples: Samples, taps: torch.Tensor, projection: torch.Tensor, weights: Regularisation) -> torch.Tensor:
    residual = activation(plain(samples.features @ projection.T, taps)) - samples.labels
    squares = (residual.square() * samples.weights[:, None, None]).sum()
    return squares + weights.filter * taps.square().sum() + weights.projection * projection.square().sum()


def dense_round(samples: Samples, flat: torch.Tensor, split, weights: torch.Tensor) -> torch.Tensor:
    """The whole Gauss-Newton step: the Jacobian as a matrix, solved exactly."""

    def residuals(vector: torch.Tensor) -> torch.Tensor:
        taps, projection = split(vector)
        error = activation(plain(samples.features @ projection.T, taps)) - samples.labels
        return torch.cat([(error * samples.weights.sqrt()[:, None, None]).flatten(), weights.sqrt() * vector])

    jacobian = torch.autograd.functional.jacobian(residuals, flat)
    return flat - torch.linalg.solve(jacobian.T @ jacobian, jacobian.T @ residuals(flat))


@pytest.mark.parametrize("side", [1, 3, 4])
def test_the_product_is_the_convolution_and_its_transpose(samples: Samples, side: int):
    taps = torch.randn(side * side, 4).double().requires_grad_()
    expected = plain(samples.features, taps)
    torch.testing.assert_close(correlate(samples.features, taps), expected)
    back = torch.autograd.grad(expected, taps, samples.labels)[0]
    torch.testing.assert_close(correlate_back(samples.features, samples.labels, side * side), back)


def test_the_slope_is_that_of_the_activation():
    response = torch.tensor([-1.0, -0.05, -1e-3, 1e-3, 0.7]).double().requires_grad_()
    torch.testing.assert_close(slope(response), torch.autograd.grad(activation(response).sum(), response)[0])


def test_conjugate_gradient_solves_and_stays_where_it_has_arrived():
    torch.manual_seed(1)
    root = torch.randn(8, 8).double()
    matrix, right = root @ root.T + torch.eye(8), torch.randn(8).double()
    solved = conjugate_gradient(lambda v: matrix @ v, right, 30, 1 / matrix.diagonal())
    torch.testing.assert_close(solved, torch.linalg.solve(matrix, right))
    assert not conjugate_gradient(lambda v: matrix @ v, right * 0, 3, 1 / matrix.diagonal()).any()


@pytest.mark.parametrize("side", [3, 4])
def test_the_filter_alone_is_the_dense_solution(samples: Samples, side: int):
    taps = torch.randn(side * side, 4).double() * 0.1
    found = fit_filter(samples, taps, 0.1, steps=200)
    eye = torch.eye(4).double()
    wanted = dense_round(samples, taps.flatten(), lambda v: (v.reshape(-1, 4), eye), torch.tensor(0.1).double())
    torch.testing.assert_close(found.flatten(), wanted)


def test_filter_and_projection_together_are_the_dense_solution_of_every_round(samples: Samples):
    weights = Regularisation(filter=0.1, projection=1e-2)
    taps, projection = torch.randn(16, 2).double() * 0.1, torch.randn(2, 4).double()
    flat = torch.cat([taps.flatten(), projection.flatten()])

    def split(vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return vector[:32].reshape(16, 2), vector[32:].reshape(2, 4)

    squares = torch.cat([flat.new_full((32,), weights.filter), flat.new_full((8,), weights.projection)])
    wanted = flat
    for _ in range(2):
        wanted = dense_round(samples, wanted, split, squares)
    found = fit_both(samples, taps, projection, weights, rounds=2, steps=300)
    torch.testing.assert_close(torch.cat([part.flatten() for part in found]), wanted, rtol=1e-6, atol=1e-7)
    assert loss(samples, *found, weights) < loss(samples, taps, projection, weights)
