"""The ascent of the predicted IoU against plain autograd, step by step; the step's unit."""

from __future__ import annotations

import pytest
import torch

import models
from models.ascent import Ascent, lines_of
from models.inference import Parts
from models.refine import boxes_of_numbers, climb, refine, step_pixels
from pairs.decode.decoder import MEAN, STD

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
    found, predicted = climb(Ascent(head), vectors, lines_of(head.encode(test["layer2"], test["layer3"])), BOXES, 3, 0.5)
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
        found = Ascent(head)(vectors, lines_of(maps), boxes.detach())
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], gradient, rtol=1e-4, atol=float(gradient.abs().max()) * 1e-5)


@pytest.mark.parametrize("architecture", ["atom_resnet18tiny", "atom_mobilenetsmall"])
def test_traced_parts_are_the_plain_network(architecture: str):
    net = tracker(architecture).requires_grad_(False)
    for module in net.modules():  # statistics that are not those of a new BatchNorm
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2), module.running_var.uniform_(0.5, 2)
    image, parts = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8), Parts(net)  # another size than the traced one, another count
    plain = net.features((image.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    for found, layer in zip(parts.head_maps(image), ("layer2", "layer3"), strict=True):
        torch.testing.assert_close(found, plain[layer], rtol=1e-4, atol=1e-4 * float(plain[layer].abs().max()))
    one = {layer: maps[:1] for layer, maps in plain.items()}
    vectors, encoded = net.modulation(one, BOXES[:1, 0]), net.bb_regressor.encode(one["layer2"], one["layer3"])
    boxes = torch.tensor([[[60.0, 50, 30, 40], [-9, 3, 40, 200], [90, 90, 20, 10], [float("nan"), 1, 2, 3], [8, 8, 0, 5]]])
    lines = parts.lines(one["layer2"], one["layer3"])
    found = climb(parts.ascent, vectors, lines, boxes, 2, 0.5)
    for value, expected in zip(found, climb(Ascent(net.bb_regressor), vectors, lines_of(encoded), boxes, 2, 0.5), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-3, equal_nan=True)


def test_a_box_network_refines_in_one_pass(images):
    net = tracker("drnet_mobilenetsmall")
    numbers = net(*images, BOXES[:, 0], BOXES).prediction
    torch.testing.assert_close(refine(net, images, BOXES[:, 0], BOXES, 5, 1.0), boxes_of_numbers(numbers, BOXES))


def test_a_step_is_a_share_of_the_target():
    assert step_pixels(1, 288, 5) == pytest.approx(1)
    assert step_pixels(1, 144, 5) == pytest.approx(0.5) and step_pixels(0.5, 288, 4) == pytest.approx(0.625)
