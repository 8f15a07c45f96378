"""The ascent of the predicted IoU against plain autograd, step by step; the step's unit."""

from __future__ import annotations

import pytest
import torch

import models
from models.ascent import Ascent
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
    found, predicted = climb(Ascent(head), vectors, head.encode(test["layer2"], test["layer3"]), BOXES, 3, 0.5)
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


@pytest.mark.parametrize("empty", [False, True])
def test_prediction_and_gradient_are_those_of_autograd(images, empty: bool):
    net = tracker("atom_mobilenetsmall")
    head = net.bb_regressor
    with torch.no_grad():  # statistics that are not those of a new BatchNorm
        for block in (head.fc3_rt, head.fc4_rt):
            block.bn.running_mean.uniform_(-1, 1), block.bn.running_var.uniform_(0.5, 2), block.bn.bias.uniform_(-1, 1)
        ref, test = (net.features(image, ("layer2", "layer3")) for image in images)
        vectors, maps = net.modulation(ref, BOXES[:, 0]), head.encode(test["layer2"], test["layer3"])
    # one reaches out of the crop, one lies outside, one is a fraction of a cell, one is empty
    odd = torch.tensor([[-9.0, 3, 40, 200], [90, 90, 20, 10], [31.3, 20.1, 0.7, 0.4], [5, 5, 0 if empty else 1, 20]])
    boxes = torch.cat([BOXES, odd.expand(2, 4, 4)], 1).requires_grad_()
    expected = head.predict(vectors, maps, boxes)
    (gradient,) = torch.autograd.grad(expected.sum(), boxes)
    with torch.no_grad():
        ascent = Ascent(head)
        found = ascent(ascent.levels(vectors, maps), boxes.detach())
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], gradient, rtol=1e-4, atol=float(gradient.abs().max()) * 1e-5)


def test_a_box_network_refines_in_one_pass(images):
    net = tracker("drnet_mobilenetsmall")
    numbers = net(*images, BOXES[:, 0], BOXES).prediction
    torch.testing.assert_close(refine(net, images, BOXES[:, 0], BOXES, 5, 1.0), boxes_of_numbers(numbers, BOXES))


def test_a_step_is_a_share_of_the_target():
    assert step_pixels(1, 288, 5) == pytest.approx(1)
    assert step_pixels(1, 144, 5) == pytest.approx(0.5) and step_pixels(0.5, 288, 4) == pytest.approx(0.625)
