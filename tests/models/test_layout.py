"""Memory formats: what is given channels last comes back so, gradients too, with the numbers of the contiguous format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from models import format_of, prroi_pool, same_format
from models.backbones import ReLU6

FORMATS = (torch.contiguous_format, torch.channels_last)


def maps(shape: tuple[int, ...], form: torch.memory_format) -> Tensor:
    random = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return random.contiguous(memory_format=form).requires_grad_()


@pytest.mark.parametrize("form", FORMATS)
def test_a_gradient_takes_the_format_of_its_map(form):
    own = maps((2, 3, 4, 5), form)
    assert format_of(own) == form and torch.equal(same_format(own), own)
    other = next(each for each in FORMATS if each != form)
    (gradient,) = torch.autograd.grad(same_format(own), own, torch.ones(2, 3, 4, 5).double().contiguous(memory_format=other))
    assert format_of(gradient) == form and bool((gradient == 1).all())


def test_pooling_is_the_same_in_both_formats_gradients_too():
    boxes = torch.tensor([[[9.3, 4.1, 22.6, 17.9], [-7.5, -3.2, 20.0, 12.0]]] * 2).double().requires_grad_()
    weights = torch.randn(2, 2, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for form in FORMATS:
        features = maps((2, 3, 5, 7), form)
        pooled = prroi_pool(features, boxes, 5, 1 / 8)
        gradients = torch.autograd.grad((pooled * weights).sum(), (features, boxes))
        assert format_of(gradients[0]) == form
        found.append((pooled, *gradients))
    for plain, last in zip(*found, strict=True):
        torch.testing.assert_close(last, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMATS)
def test_relu6_and_its_gradient_are_torchs_bit_for_bit(form):
    source = maps((2, 3, 8, 8), form)
    values = (source * 5).detach().requires_grad_()
    with torch.no_grad():
        values[0, 0, 0, :4] = torch.tensor([0.0, 6.0, -0.0, 7.0]).double()
    weights = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    before = values.detach().clone()
    # as behind a BatchNorm: what is overwritten is nobody else's
    ours, plain = ReLU6()(values * 1), functional.relu6(values)
    assert torch.equal(ours, plain) and torch.equal(values, before)
    (mine,), (torchs,) = (torch.autograd.grad((each * weights).sum(), values) for each in (ours, plain))
    assert torch.equal(mine, torchs)
    frozen = before.clone()
    assert torch.equal(ReLU6()(frozen), plain) and torch.equal(frozen, before), "without a backward pass nothing is overwritten"


def test_relu6_keeps_one_map_for_the_backward_pass():
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        result = ReLU6()(maps((2, 3, 8, 8), torch.contiguous_format) * 1)
    assert kept == [result.data_ptr()]


def test_every_relu6_of_mobilenet_is_the_one_above():
    backbone = models.build("atom_mobilenetsmall").feature_extractor
    assert sum(isinstance(module, ReLU6) for module in backbone.modules()) > 20
    assert not any(isinstance(module, nn.ReLU6) for module in backbone.modules())


@pytest.mark.parametrize("architecture", ["atom_mobilenetsmall", "atom_resnet18tiny"])
def test_no_gradient_inside_a_network_leaves_the_channels_last_format(architecture):
    torch.manual_seed(0)
    tracker = models.build(architecture).to(memory_format=torch.channels_last)
    images = torch.randn(2, 2, 3, 64, 64).unbind()
    ref, test = (image.contiguous(memory_format=torch.channels_last) for image in images)
    box = torch.tensor([[16.0, 16, 20, 24]] * 2)
    seen: dict[str, Tensor] = {}

    def watch(name: str, output: Tensor) -> None:
        if output.dim() == 4 and output.requires_grad:
            output.register_hook(lambda gradient: seen.update({name: gradient}))

    for name, module in tracker.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, given, output, name=name: watch(name, output))
    outputs = tracker(ref, test, box, box[:, None].repeat(1, 3, 1), models.LAYERS)
    total = outputs.prediction.square().sum() + sum(
        same_format(each).abs().sum() for each in (*outputs.ref.values(), *outputs.test.values())
    )
    total.backward()
    assert len(seen) > 10
    assert not [name for name, gradient in seen.items() if not gradient.is_contiguous(memory_format=torch.channels_last)]
