"""Precise RoI pooling against integration bin by bin, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models import prroi_pool

Pool = Callable[[np.ndarray, np.ndarray, int, float], np.ndarray]
# inside; across the left and top edge; across the right and bottom edge; smaller than a cell; larger than the map; at cell corners
BOXES: list[list[float]] = [
    [9.3, 4.1, 22.6, 17.9],
    [-7.5, -3.2, 20.0, 12.0],
    [40.3, 30.2, 30.0, 25.0],
    [20.1, 17.7, 2.3, 1.1],
    [-20, -20, 120, 120],
    [8, 8, 16, 16],
]


def random_map(channels: int = 3, height: int = 5, width: int = 7, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def two(boxes: list[list[float]]) -> torch.Tensor:
    """The boxes for one image, and shifted ones for another."""
    first = torch.tensor(boxes, dtype=torch.float64)
    return torch.stack((first, first + torch.tensor([1.3, -2.1, 0.7, 3.0])))


@pytest.mark.parametrize(("size", "scale"), [(1, 1 / 16), (2, 1 / 8), (3, 1 / 8), (5, 1 / 8)])
def test_is_the_mean_over_each_bin(plain_pool: Pool, size: int, scale: float) -> None:
    features, boxes = random_map(), two(BOXES)
    expected = plain_pool(features.numpy(), boxes.numpy(), size, scale)
    np.testing.assert_allclose(prroi_pool(features, boxes, size, scale).numpy(), expected, rtol=0, atol=1e-12)
    single = prroi_pool(features.float(), boxes.float(), size, scale)
    assert single.shape == (2, len(BOXES), 3, size, size)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=5e-7 * np.abs(expected).max())


def test_a_constant_map_has_that_mean_inside() -> None:
    pooled = prroi_pool(torch.full((1, 2, 6, 6), 3.5), torch.tensor([[[8.0, 4.0, 24.0, 30.0]]]), 5, 1 / 8)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 3.5))


def test_gradients_are_those_of_the_plain_integral(plain_pool: Pool) -> None:
    features, boxes = random_map(batch=1), two(BOXES[:4])[:1]
    weights = torch.randn(1, 4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    features.requires_grad_()
    boxes.requires_grad_()
    (prroi_pool(features, boxes, 3, 1 / 8) * weights).sum().backward()

    def value(f: np.ndarray, b: np.ndarray) -> float:
        return float((plain_pool(f, b, 3, 1 / 8) * weights.numpy()).sum())

    f, b, step = features.detach().numpy(), boxes.detach().numpy(), 1e-5
    for array, gradient in ((f, features.grad), (b, boxes.grad)):
        assert gradient is not None
        for index in list(np.ndindex(array.shape))[:: max(1, array.size // 16)]:
            kept = array[index]
            array[index] = kept + step
            above = value(f, b)
            array[index] = kept - step
            below = value(f, b)
            array[index] = kept
            assert gradient[index].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-7)


def test_gradcheck() -> None:
    features = random_map(channels=2).requires_grad_()
    boxes = two([[9.3, 4.1, 22.6, 17.9], [-7.5, -3.2, 20.0, 12.0], [20.1, 17.7, 2.3, 1.1]]).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, b: prroi_pool(f, b, 3, 1 / 8), (features, boxes))


@pytest.mark.parametrize(
    "box", [[10.0, 10.0, 0.0, 8.0], [10.0, 10.0, 8.0, 0.0], [10.0, 10.0, -5.0, 8.0], [10.0, 10.0, 8.0, -5.0], [0.0, 0.0, 0.0, 0.0]]
)
def test_an_empty_box_gives_zero_and_no_gradient(box: list[float]) -> None:
    features = random_map(batch=1).float().requires_grad_()
    boxes = torch.tensor([[box]], requires_grad=True)
    pooled = prroi_pool(features, boxes, 3, 1 / 8)
    assert (pooled == 0).all()
    pooled.sum().backward()
    for leaf in (features, boxes):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_outside_the_map_is_zero() -> None:
    far = torch.tensor([[[-90.0, 4, 20, 20], [500.0, 4, 20, 20], [4, -90.0, 20, 20], [4, 500.0, 20, 20]]])
    assert (prroi_pool(torch.ones(1, 2, 5, 7), far, 3, 1 / 8) == 0).all()


def test_many_boxes_are_each_as_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 4, 9, 9, generator=generator)
    boxes = torch.rand(2, 500, 4, generator=generator) * 40
    together = prroi_pool(features, boxes, 3, 1 / 8)
    for index in (0, 17, 499):
        torch.testing.assert_close(together[:, index : index + 1], prroi_pool(features, boxes[:, index : index + 1], 3, 1 / 8))


def test_autocast_and_memory_format_change_nothing() -> None:
    features, boxes = random_map().float(), two(BOXES).float()
    expected = prroi_pool(features, boxes, 5, 1 / 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prroi_pool(features, boxes, 5, 1 / 8), expected)
        # a map that autocast made is taken as it is, and its mean is taken in float32
        rounded = prroi_pool(features.bfloat16(), boxes, 5, 1 / 8)
    torch.testing.assert_close(rounded, prroi_pool(features.bfloat16().float(), boxes, 5, 1 / 8), rtol=0, atol=0)
    torch.testing.assert_close(prroi_pool(features.to(memory_format=torch.channels_last), boxes, 5, 1 / 8), expected)
