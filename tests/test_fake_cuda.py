"""Whole steps of every setting on fake CUDA tensors, on any machine: a number on the wrong device fails, so does waiting for the device.

A fake tensor has a shape, a type and a device and no numbers. So `.item()`, a branch on a tensor and a mask cannot pass, operations on two
devices are refused as CUDA refuses them, and `Crossing` sees every copy from one device to the other.

PyTorch's engine of gradients asks the driver for its devices, so a machine without one cannot run it. What it would run of this project,
the backward passes of its own functions, is called here node by node; every parameter that a loss reaches gets a gradient of no numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import configs
import kdlosses.gaussian
from configs import Config
from kdlosses import TARGETS, build_objectives, sizes_of, target_spec
from models import TeacherSpec
from tests.steps import B, config_of, live_teacher, loops, random_batch
from train.evaluate import Validation
from train.loop import Meter

CUDA = torch.device("cuda", 0)


class Crossing(TorchDispatchMode):
    """Fails at a copy between two devices: it waits for the device, or for memory that is not pinned."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken, given = (
            {value.device.type for value in tree_leaves(tree) if isinstance(value, Tensor)} for tree in ((args, kwargs), result)
        )
        copies = func is torch.ops.aten.copy_.default and len(taken) > 1
        assert not copies and not (taken and given and taken.isdisjoint(given)), f"{func} goes from {taken} to {given}"
        return result


def moved(module: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
    """`Module.to` with new parameters in the place of the old: PyTorch changes a fake one in place, where something else may hold it."""
    device, _, _, layout = torch._C._nn._parse_to(*arguments, **options)
    for part in module.modules():
        both: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for tensors in both:
            for name, value in tensors.items():
                if value is not None:
                    there = value.detach().to(device or value.device)
                    there = there.contiguous(memory_format=layout) if layout is not None and value.ndim == 4 else there
                    tensors[name] = nn.Parameter(there, value.requires_grad) if isinstance(value, nn.Parameter) else there
    return module


def backward(loss: Tensor) -> None:
    """`Tensor.backward` without the engine."""
    nodes: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            node.variable.grad = torch.empty_like(node.variable)
        elif hasattr(node, "_forward_cls"):  # a torch.autograd.Function of ours
            given = [torch.empty(tuple(of.shape), dtype=of.dtype, device=of.device) for of in node._input_metadata]
            node._forward_cls.backward(node, *given)
        nodes += [following for following, _ in node.next_functions]


@contextmanager
def no_numbers() -> Iterator[None]:
    """Every tensor is fake."""
    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", moved)
        patch.setattr(Tensor, "backward", backward)
        yield


def whole_steps(config: Config, folder: Path) -> None:
    """A step of training and a batch of validation, of every phase."""
    build_objectives(config, config.teacher.architecture if config.teacher else None)  # what is kept between calls has no place in the mode
    with no_numbers():
        batch = random_batch(config, CUDA)
        for loop, origin in loops(config, folder, CUDA):
            validation, meter = Validation(len(loop.students.trackers), CUDA), Meter(0.0)
            with Crossing():
                loop.one_step(batch, meter)
                with torch.no_grad():
                    loop.students.eval()
                    targets = loop.targets(batch, origin)
                    validation.add(*loop.forward(loop.step, batch, targets, 0), batch.boxes, targets.get("iou/iou"))
            trained = [value for group in loop.optimizer.param_groups for value in group["params"]]
            assert trained and all(value.device == CUDA for value in trained) and any(value.grad is not None for value in trained)
            assert meter.rows[0].device == CUDA


pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available", "ignore:.*Lazy device")


@pytest.mark.parametrize("setting", configs.settings())
def test_every_setting_steps_and_validates_on_one_device_without_waiting(setting, tmp_path):
    whole_steps(config_of(setting), tmp_path)


@pytest.mark.parametrize("changes", [("precision=bfloat16", "channels_last=true"), ("precision=float32", "channels_last=false")])
@pytest.mark.parametrize("setting", ["atom_cfkd", "atom_compression"])
def test_so_does_it_in_other_precisions_and_layouts(setting, changes, tmp_path):
    whole_steps(config_of(setting, "student.architecture=atom_resnet18tiny", *(f"train.{change}" for change in changes)), tmp_path)


def test_a_batch_of_precompute_stays_on_the_device_to_its_end():
    """Every target, with the projection that comes from the cache's constants."""
    config = config_of("atom_compression", "teacher.feature_bits=4")
    sizes = sizes_of(config, TeacherSpec("t", "atom_resnet18tiny", None, "", "float32", B, 4))
    specs = [target_spec(name, sizes) for name in TARGETS]
    constants = {layer: matrix for each in specs for layer, matrix in each.constants.items()}
    with no_numbers(), torch.no_grad():
        teacher, batch = live_teacher(config, CUDA), random_batch(config, CUDA)
        projection = {layer: torch.empty(matrix.shape, device=CUDA) for layer, matrix in constants.items()}
        with Crossing():
            exact = teacher.exact(batch.ref, batch.test, batch.boxes, tuple(TARGETS), projection)
            rounded = teacher.rounded({key: value[:3] for key, value in exact.items()})
        for each in specs:
            for array in each.arrays:
                value = rounded[f"{each.name}/{array.name}"].to(getattr(torch, array.dtype))
                assert value.device == CUDA and tuple(value.shape) == (3, *array.shape)


def planted_device(*arguments: Any) -> Tensor:
    """A label that somebody made on the processor."""
    return torch.ones(B, arguments[1][0], arguments[1][1])


def planted_wait(box: Tensor, shape: tuple[int, int], stride: int, sigma: float) -> Tensor:
    """A label that looks at a number."""
    return box.new_full((len(box), *shape), 1 / sigma if box.sum().item() else 0.0)


def planted_copy(box: Tensor, shape: tuple[int, int], stride: int, sigma: float) -> Tensor:
    """A label that goes over the processor."""
    return box.cpu().to(box.device).new_full((len(box), *shape), sigma)


@pytest.mark.parametrize(
    ("planted", "error", "message"),
    [
        (planted_device, RuntimeError, "device"),
        (planted_wait, DataDependentOutputException, "_local_scalar_dense"),
        (planted_copy, AssertionError, "goes from {'cuda'} to {'cpu'}"),
    ],
)
def test_what_is_planted_is_seen(planted, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr("kdlosses.correlation_filter.gaussian", planted)
    assert kdlosses.gaussian.gaussian is not planted
    with pytest.raises(error, match=message):
        whole_steps(config_of("atom_cfkd", "student.architecture=atom_resnet18tiny"), tmp_path)
