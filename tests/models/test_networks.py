"""The networks: names, shapes, stages, the head against its formulas, freezing, the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import models
from configs.errors import RequestError
from configs.schema import ImageConfig, PairsConfig, SearchImageConfig

Pool = Callable[[np.ndarray, np.ndarray, int, float], np.ndarray]
SIDE = 64
TINY = "atom_resnet18tiny"


def reference_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """The public checkpoints' names and shapes: an integer stands for a BatchNorm of that width, a list for weight and bias."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module, content in json.loads((Path(__file__).parent / "checkpoint_keys.json").read_text())[architecture].items():
        if isinstance(content, int):
            shapes |= {f"{module}.{name}": (content,) for name in ("weight", "bias", "running_mean", "running_var")}
            shapes[f"{module}.num_batches_tracked"] = ()
        else:
            shapes |= {f"{module}.{name}": tuple(shape) for name, shape in zip(("weight", "bias"), content, strict=False)}
    return shapes


def inputs(pairs: int = 2, number: int = 3, sides: tuple[int, int] = (SIDE, SIDE)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ref, test = (torch.randn(pairs, 3, side, side, generator=generator) for side in sides)
    return ref, test, 4 + 24 * torch.rand(pairs, 4, generator=generator), 4 + 24 * torch.rand(pairs, number, 4, generator=generator)


def lively(architecture: str = TINY) -> models.Tracker:
    """A tracker in eval mode whose BatchNorm has statistics of its own: with the initial ones many a mistake would not show."""
    torch.manual_seed(0)
    tracker = models.build(architecture)
    for module in tracker.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.3)
    return tracker.eval()


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_parameters_have_the_public_names_and_shapes(architecture: str) -> None:
    with torch.device("meta"):
        tracker = models.build(architecture)
    expected = reference_shapes(architecture)
    assert {name: tuple(tensor.shape) for name, tensor in tracker.state_dict().items()} == expected
    assert tracker.architecture == architecture
    assert tracker.numbers == (4 if architecture.startswith("drnet") else 1)


def test_an_unknown_architecture_is_named_with_the_nearest() -> None:
    with pytest.raises(
        RequestError, match=r"expected an architecture among atom_resnet18, .* found 'atom_resnet81' \(nearest: 'atom_resnet18"
    ):
        models.build("atom_resnet81")


@pytest.mark.parametrize("architecture", ["atom_resnet18tiny", "atom_mobilenetsmall", "drnet_resnet50"])
def test_maps_have_the_stated_channels_and_strides(architecture: str) -> None:
    tracker = models.build(architecture).eval()
    with torch.no_grad():
        outputs = tracker(*inputs(), layers=models.LAYERS)
    for maps in (outputs.ref, outputs.test):
        for layer in models.LAYERS:
            cells = SIDE // models.STRIDES[layer]
            assert maps[layer].shape == (2, tracker.channels[layer], cells, cells)
    assert outputs.prediction.shape == ((2, 3, 4) if tracker.numbers == 4 else (2, 3))
    assert outputs.prediction.dtype == torch.float32


def test_resnet_stages_are_torchvisions() -> None:
    tracker = lively("atom_resnet18")
    twin = torchvision.models.resnet18(weights=None).eval()
    twin.load_state_dict(tracker.feature_extractor.state_dict())
    x, expected = inputs()[0], {}
    with torch.no_grad():
        expected["conv1"] = torch.relu(twin.bn1(twin.conv1(x)))
        x = twin.maxpool(expected["conv1"])
        for layer in models.LAYERS[1:]:
            x = expected[layer] = getattr(twin, layer)(x)
        maps = tracker.features(inputs()[0])
    assert list(maps) == list(models.LAYERS)
    for layer in models.LAYERS:
        torch.testing.assert_close(maps[layer], expected[layer], rtol=0, atol=0)


def test_mobilenet_stages_are_cut_at_blocks_1_4_7_and_11() -> None:
    tracker = lively("atom_mobilenetsmall")
    twin = torchvision.models.mobilenet_v2(weights=None).eval()
    twin.load_state_dict(dict(zip(twin.state_dict(), tracker.feature_extractor.state_dict().values(), strict=True)))
    with torch.no_grad():
        maps = tracker.features(inputs()[0])
        for layer, stop in zip(models.LAYERS, (1, 4, 7, 11), strict=True):
            torch.testing.assert_close(maps[layer], twin.features[:stop](inputs()[0]), rtol=0, atol=0)


def test_only_layers_asked_for_are_returned() -> None:
    tracker = lively()
    with torch.no_grad():
        outputs = tracker(*inputs(), layers=("layer3", "conv1"))
        assert set(outputs.ref) == set(outputs.test) == {"layer3", "conv1"}
        assert models.Outputs(outputs.prediction).ref == tracker(*inputs()).ref == {}
        assert list(tracker.features(inputs()[0], ("layer1",))) == ["layer1"]
        with pytest.raises(RequestError, match=r"found 'layer5' \(nearest: 'layer3'\)|found 'layer5'"):
            tracker(*inputs(), layers=("layer5",))


def plain_head(tracker: models.Tracker, ref: Tensor, test: Tensor, box: Tensor, proposals: Tensor, pool: Pool) -> Tensor:
    """ATOM's head written down from its description, in float64: modulate the map first, then pool it."""
    state = {name.removeprefix("bb_regressor."): tensor.double() for name, tensor in tracker.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        statistics = (state[f"{name}.running_mean"], state[f"{name}.running_var"], state[f"{name}.weight"], state[f"{name}.bias"])
        return torch.relu(F.batch_norm(x, *statistics))

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return norm(F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], padding=padding), f"{name}.1")

    def linear(x: Tensor, name: str) -> Tensor:
        return norm(x.flatten(2).flatten(0, 1) @ state[f"{name}.linear.weight"].T + state[f"{name}.linear.bias"], f"{name}.bn")

    def pooled(x: Tensor, boxes: Tensor, size: int, stride: int) -> Tensor:
        return torch.from_numpy(pool(x.numpy(), boxes.double().numpy(), size, 1 / stride))

    maps = {side: tracker.features(images) for side, images in (("ref", ref), ("test", test))}
    r3, r4, t3, t4 = (maps[side][layer].double() for side in ("ref", "test") for layer in ("layer2", "layer3"))
    both = torch.cat(
        (
            conv(pooled(conv(r3, "conv3_1r"), box[:, None], 3, 8)[:, 0], "fc3_1r", 0),
            pooled(conv(r4, "conv4_1r"), box[:, None], 1, 16)[:, 0],
        ),
        1,
    )
    map3 = conv(conv(t3, "conv3_1t"), "conv3_2t") * conv(both, "fc34_3r", 0)
    map4 = conv(conv(t4, "conv4_1t"), "conv4_2t") * conv(both, "fc34_4r", 0)
    hidden = torch.cat((linear(pooled(map3, proposals, 5, 8), "fc3_rt"), linear(pooled(map4, proposals, 3, 16), "fc4_rt")), 1)
    predictor = "iou_predictor" if tracker.numbers == 1 else "box_predictor"
    out = hidden @ state[f"{predictor}.weight"].T + state[f"{predictor}.bias"]
    return out.reshape(proposals.shape[:2] if tracker.numbers == 1 else (*proposals.shape[:2], 4))


@pytest.mark.parametrize("architecture", [TINY, "drnet_mobilenetsmall"])
def test_head_follows_its_formulas(architecture: str, plain_pool: Pool) -> None:
    tracker = lively(architecture)
    with torch.no_grad():
        expected = plain_head(tracker, *inputs(), plain_pool)
        prediction = tracker(*inputs()).prediction
    assert expected.std() > 0.01
    torch.testing.assert_close(prediction.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_gradient_in_the_proposals(plain_pool: Pool) -> None:
    tracker = lively().double()
    ref, test, box, proposals = (tensor.double() for tensor in inputs(pairs=2, number=1))
    proposals.requires_grad_()
    tracker(ref, test, box, proposals).prediction.sum().backward()
    gradient, step = proposals.grad, 1e-4
    assert gradient is not None
    for side in range(4):
        shifted = [proposals.detach().clone() for _ in range(2)]
        shifted[0][0, 0, side] += step
        shifted[1][0, 0, side] -= step
        with torch.no_grad():
            above, below = (plain_head(tracker, ref, test, box, moved, plain_pool).sum().item() for moved in shifted)
        assert gradient[0, 0, side].item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-8)


def test_tracking_in_steps_is_the_forward_pass() -> None:
    tracker = lively()
    ref, test, box, proposals = inputs()
    with torch.no_grad():
        vectors = tracker.modulation(tracker.features(ref, ("layer2", "layer3")), box)
        maps = tracker.features(test)
        expected = tracker(ref, test, box, proposals).prediction
        torch.testing.assert_close(tracker.predict(vectors, maps, proposals), expected)
        encoded = tracker.bb_regressor.encode(maps["layer2"], maps["layer3"])
        torch.testing.assert_close(tracker.bb_regressor.predict(vectors, encoded, proposals), expected)


def test_both_images_are_one_batch() -> None:
    tracker = models.build(TINY)
    ref, test, box, proposals = inputs()
    tracker(ref, test, box, proposals)
    backbone: Any = tracker.feature_extractor
    assert backbone.bn1.num_batches_tracked == 1
    both = torch.cat((ref, test))
    expected = 0.1 * F.conv2d(both, backbone.conv1.weight, stride=2, padding=3).mean((0, 2, 3))
    torch.testing.assert_close(backbone.bn1.running_mean, expected)


@pytest.mark.parametrize("sides", [(SIDE, SIDE), (48, 80), (96, 64)])
@pytest.mark.parametrize("architecture", [TINY, "drnet_mobilenetsmall"])
def test_each_image_has_its_own_size(architecture: str, sides: tuple[int, int]) -> None:
    tracker = lively(architecture)
    ref, test, box, proposals = inputs(sides=sides)
    with torch.no_grad():
        outputs = tracker(ref, test, box, proposals, models.LAYERS)
        first, second = tracker.features(ref), tracker.features(test)
        prediction = tracker.predict(tracker.modulation(first, box), second, proposals)
    torch.testing.assert_close(outputs.prediction, prediction, rtol=0, atol=1e-5 * prediction.abs().max().item())
    for maps, alone, side in ((outputs.ref, first, sides[0]), (outputs.test, second, sides[1])):
        for layer, stride in models.STRIDES.items():
            assert maps[layer].shape[2:] == (side // stride, side // stride)
            torch.testing.assert_close(maps[layer], alone[layer], rtol=0, atol=1e-5 * alone[layer].abs().max().item())


def test_one_size_is_one_batch_bit_for_bit_and_two_sizes_are_two() -> None:
    ref, test, box, proposals = inputs()
    tracker, twin = lively().train(), lively().train()
    outputs, both = tracker(ref, test, box, proposals, models.LAYERS), twin.features(torch.cat((ref, test)))
    for layer in models.LAYERS:
        assert torch.equal(torch.cat((outputs.ref[layer], outputs.test[layer])), both[layer])
    tracker, twin = lively().train(), lively().train()
    ref, test, box, proposals = inputs(sides=(48, 80))
    outputs = tracker(ref, test, box, proposals, models.LAYERS)
    for alone, maps in ((twin.features(ref), outputs.ref), (twin.features(test), outputs.test)):
        assert all(torch.equal(alone[layer], maps[layer]) for layer in models.LAYERS)
    assert all(torch.equal(a, b) for a, b in zip(tracker.feature_extractor.buffers(), twin.feature_extractor.buffers(), strict=True))


def test_memory_format_and_autocast() -> None:
    tracker = lively()
    with torch.no_grad():
        expected = tracker(*inputs(), layers=("layer3",))
        ref, test, *boxes = inputs()
        tracker.to(memory_format=torch.channels_last)
        last = tracker(ref.to(memory_format=torch.channels_last), test.to(memory_format=torch.channels_last), *boxes, layers=("layer3",))
        assert last.ref["layer3"].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(last.prediction, expected.prediction, rtol=0, atol=1e-5 * expected.prediction.abs().max().item())
        with torch.autocast("cpu", torch.bfloat16):
            low = tracker(*inputs(), layers=("layer3",))
    assert low.prediction.dtype == torch.float32
    assert low.ref["layer3"].dtype == torch.bfloat16
    assert (low.prediction - expected.prediction).abs().max() < 0.05 * expected.prediction.abs().max()


def test_compiles_without_a_graph_break() -> None:
    tracker = lively()
    compiled = torch.compile(tracker, fullgraph=True, backend="eager")
    with torch.no_grad():
        outputs, expected = compiled(*inputs(), layers=("conv1",)), tracker(*inputs(), layers=("conv1",))
    torch.testing.assert_close(outputs.prediction, expected.prediction)
    torch.testing.assert_close(outputs.test["conv1"], expected.test["conv1"])


def test_initialisation() -> None:
    torch.manual_seed(0)
    atom: Any = models.build("atom_mobilenetsmall")
    drnet: Any = models.build("drnet_mobilenetsmall")
    weight = atom.bb_regressor.fc3_rt.linear.weight
    assert weight.std().item() == pytest.approx((2 / weight.shape[1]) ** 0.5, rel=0.02)  # Kaiming, fan_in
    weight = atom.feature_extractor.layer3[1].conv[0][0].weight
    assert weight.std().item() == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.02)  # Kaiming, fan_out
    norm = atom.bb_regressor.fc34_3r[1].weight
    assert 0 <= norm.min() < 0.2 < 0.8 < norm.max() <= 1
    assert (drnet.bb_regressor.fc34_3r[1].weight == 1).all()
    for module in atom.bb_regressor.modules():
        if getattr(module, "bias", None) is not None:
            assert (module.bias == 0).all()
    first, second = (torch.manual_seed(5), models.build(TINY))[1], (torch.manual_seed(5), models.build(TINY))[1]
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def statistics(module: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


def same(before: list[Tensor], module: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, module.buffers(), strict=True))


@pytest.mark.parametrize(("frozen", "free"), [("backbone", "head"), ("head", "backbone")])
def test_a_frozen_part_stands_still(frozen: str, free: str) -> None:
    tracker = models.build(TINY)
    tracker.freeze((free,))
    tracker.freeze((frozen,))  # freezes this one alone
    tracker.train()
    before = {name: statistics(tracker.part(name)) for name in (frozen, free)}
    tracker(*inputs()).prediction.sum().backward()
    assert same(before[frozen], tracker.part(frozen))
    assert not same(before[free], tracker.part(free))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in tracker.part(frozen).parameters())
    assert any(parameter.grad is not None for parameter in tracker.part(free).parameters())
    with pytest.raises(RequestError, match="expected a part among backbone, head, found 'heads'"):
        tracker.freeze(("heads",))


@pytest.mark.parametrize("architecture", [TINY, "atom_mobilenetsmall"])
def test_every_trainable_parameter_gets_a_gradient(architecture: str) -> None:
    tracker = models.build(architecture)
    tracker(*inputs()).prediction.sum().backward()
    trainable = {name for name, parameter in tracker.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, parameter in tracker.named_parameters() if parameter.grad is not None}
    assert not any(".layer4." in name or ".fc." in name or ".classifier." in name for name in trainable)


def test_one_pair_cannot_train_the_head() -> None:
    tracker = models.build(TINY)
    with pytest.raises(RequestError, match="expected at least 2 pairs in a training batch"):
        tracker(*inputs(pairs=1))
    tracker.freeze(("head",))
    assert tracker(*inputs(pairs=1)).prediction.shape == (1, 3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_teacher_only_answers(dtype: str) -> None:
    teacher = models.TeacherNetwork(models.build(TINY), dtype)
    before = statistics(teacher)
    holder = nn.ModuleList([teacher])
    holder.train()
    teacher.train(True)
    assert not any(module.training for module in teacher.modules())
    outputs = teacher(*inputs(), layers=("layer2",))
    assert same(before, teacher)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for tensor in (outputs.prediction, outputs.ref["layer2"], outputs.test["layer2"]):
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad


def test_a_teachers_answer_depends_on_its_pair_alone() -> None:
    teacher = models.TeacherNetwork(lively())
    ref, test, box, proposals = inputs(pairs=4)
    together = teacher(ref, test, box, proposals).prediction
    alone = torch.cat([teacher(ref[i : i + 1], test[i : i + 1], box[i : i + 1], proposals[i : i + 1]).prediction for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * alone.abs().max().item())


def test_the_teachers_dtype_is_its_own() -> None:
    tracker = lively()
    exact = models.TeacherNetwork(tracker)(*inputs()).prediction
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(models.TeacherNetwork(tracker)(*inputs()).prediction, exact)
    assert not torch.equal(models.TeacherNetwork(tracker, "bfloat16")(*inputs()).prediction, exact)
    with pytest.raises(RequestError, match="expected the teacher's dtype among float32, bfloat16, float16, found 'int8'"):
        models.TeacherNetwork(tracker, "int8")


@pytest.mark.parametrize("sizes", [(SIDE, SIDE), (48, 96)])
def test_multiply_adds_are_those_of_the_layers_that_run(sizes: tuple[int, int]) -> None:
    tracker = models.build(TINY).eval()
    counted: list[int] = []

    def count(module: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counted.append(out.numel() * module.weight[0].numel())
        elif isinstance(module, nn.Linear):
            counted.append(out.numel() * module.in_features)

    hooks = [module.register_forward_hook(count) for module in tracker.modules()]
    ref, test, number = sizes[0] // 8, sizes[1] // 8, 3
    with torch.no_grad():
        tracker(*inputs(pairs=1, number=number, sides=sizes))
    for hook in hooks:
        hook.remove()
    # rows of the pooling on every map, then columns: (boxes, bins, channels, cells a side)
    for boxes, bins, channels, cells in ((1, 3, 16, ref), (1, 1, 32, ref // 2), (number, 5, 32, test), (number, 3, 32, test // 2)):
        counted.append(boxes * bins * channels * cells * cells + boxes * bins * bins * channels * cells)
    pairs = PairsConfig(ref=ImageConfig(size=sizes[0]), test=SearchImageConfig(size=sizes[1]), proposals=number)
    assert models.flops(tracker, pairs) == sum(counted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_agrees_with_the_cpu() -> None:
    tracker = lively()
    expected = tracker(*inputs()).prediction
    there = tracker.cuda()(*(tensor.cuda() for tensor in inputs())).prediction
    torch.testing.assert_close(there.cpu(), expected, rtol=0, atol=1e-3)
