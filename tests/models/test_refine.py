"""The ascent of the predicted IoU against plain autograd, step by step; the step's unit."""

from __future__ import annotations

import pytest
import torch

import models
from models.refine import boxes_of_numbers, climb, refine, step_pixels

BOXES = torch.tensor([[[20.0, 18, 30, 24], [25, 20, 20, 30]], [[10, 12, 16, 22], [8, 30, 25, 14]]])


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 64, 64, generator=generator), torch.randn(2, 3, 64, 64, generator=generator)


def tracker(architecture: str) -> models.Tracker:
    torch.manual_seed(0)
    return models.build(architecture).eval()


def test_the_ascent_is_the_gradient_step_by_step(images):
    net = tracker("atom_resnet18tiny")
    ref, test = (net.features(image, ("layer2", "layer3")) for image in images)
    vectors = net.modulation(ref, BOXES[:, 0])
    head = net.bb_regressor
    found, predicted = climb(head, vectors, head.encode(test["layer2"], test["layer3"]), BOXES, 3, 0.5)
    boxes = BOXES
    for _ in range(3):
        boxes = boxes.clone().requires_grad_()
        expected = net.predict(vectors, test, boxes)
        (gradient,) = torch.autograd.grad(expected.sum(), boxes)
        with torch.no_grad():
            boxes = torch.stack([boxes[..., k] + 0.5 * gradient[..., k] * boxes[..., 2 + k % 2] for k in range(4)], -1)
    torch.testing.assert_close(found, boxes)
    torch.testing.assert_close(predicted, expected)
    assert not torch.equal(found, BOXES)
    torch.testing.assert_close(refine(net, images, BOXES[:, 0], BOXES, 3, 0.5), boxes)


def test_a_box_network_refines_in_one_pass(images):
    net = tracker("drnet_mobilenetsmall")
    numbers = net(*images, BOXES[:, 0], BOXES).prediction
    torch.testing.assert_close(refine(net, images, BOXES[:, 0], BOXES, 5, 1.0), boxes_of_numbers(numbers, BOXES))


def test_a_step_is_a_share_of_the_target():
    assert step_pixels(1, 288, 5) == pytest.approx(1)
    assert step_pixels(1, 144, 5) == pytest.approx(0.5) and step_pixels(0.5, 288, 4) == pytest.approx(0.625)
