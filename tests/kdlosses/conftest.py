"""Small random scenes: crop 96 (maps 48, 24, 12, 6; patches 11, 5, 3, 3), B pairs, N = 5 proposals."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from configs.schema import Losses
from kdlosses import TARGETS, Objective, Pairs, build_objective
from models import STRIDES, Outputs

CROP, N = 96, 5
STUDENT = {"conv1": 4, "layer1": 3, "layer2": 5, "layer3": 6}
TEACHER = {"conv1": 6, "layer1": 7, "layer2": 8, "layer3": 9}


def outputs(channels: dict[str, int], batch: int, seed: int, *, numbers: int = 1, positive: bool = False, grad: bool = False) -> Outputs:
    random = torch.Generator().manual_seed(seed)

    def maps() -> dict[str, Tensor]:
        found = {}
        for layer, count in channels.items():
            value = torch.randn(batch, count, CROP // STRIDES[layer], CROP // STRIDES[layer], generator=random) + 0.3
            found[layer] = (value.relu() if positive else value).requires_grad_(grad)
        return found

    shape = (batch, N) if numbers == 1 else (batch, N, numbers)
    return Outputs((2 * torch.rand(shape, generator=random) - 1).requires_grad_(grad), maps(), maps())


def pairs(batch: int, seed: int = 0) -> Pairs:
    random = torch.Generator().manual_seed(seed)
    ref, test = (
        torch.cat([15 + 40 * torch.rand(batch, 2, generator=random), 12 + 20 * torch.rand(batch, 2, generator=random)], 1) for _ in "rt"
    )
    noise = 6 * torch.rand(batch, N, 4, generator=random) - 3
    return Pairs(ref, test, test[:, None] + noise, CROP)


def row(one: Outputs | Pairs, index: int) -> Outputs | Pairs:
    """Pair `index` alone, as a batch of 1."""
    cut = slice(index, index + 1)
    if isinstance(one, Pairs):
        return Pairs(one.ref_box[cut], one.test_box[cut], one.proposals[cut], one.crop_size)
    return Outputs(one.prediction[cut], {k: v[cut] for k, v in one.ref.items()}, {k: v[cut] for k, v in one.test.items()})


def rounded(targets: dict[str, Tensor], numbers: int = 1) -> dict[str, Tensor]:
    """What comes back from a cache: each array through its stored type."""
    found = dict(targets)
    for name, target in TARGETS.items():
        for array in target.arrays(TEACHER, numbers, N, CROP, student_channels=STUDENT):
            key = f"{name}/{array.name}"
            if key in found:
                assert tuple(found[key].shape[1:]) == array.shape
                found[key] = found[key].to(getattr(torch, array.dtype)).float()
    return found


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, Euclidean, in float64."""
    found, wanted = found.detach().double(), wanted.detach().double()
    assert found.shape == wanted.shape and wanted.norm() > 0
    return float((found - wanted).norm() / wanted.norm())


def leaves(one: Outputs) -> list[Tensor]:
    return [one.prediction, *one.ref.values(), *one.test.values()]


def gradients(loss: Tensor, one: Outputs) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, leaves(one), allow_unused=True, retain_graph=True))


def same(found: Tensor, wanted: Tensor, student: Outputs, bound: float) -> None:
    """Loss and all its gradients agree within a relative error; a gradient is missing in both or in none."""
    assert relative(found, wanted) < bound
    some = False
    for first, second in zip(gradients(found, student), gradients(wanted, student), strict=True):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            some = True
            assert relative(first, second) < bound if second.norm() > 0 else first.norm() == 0
    assert some


def objective(numbers: int = 1, teacher: bool = True, **losses: object) -> Objective:
    return build_objective(Losses.model_validate(losses), STUDENT, TEACHER if teacher else None, numbers)


@pytest.fixture
def kit() -> SimpleNamespace:
    tools: list[Callable[..., object]] = [outputs, pairs, row, rounded, relative, leaves, gradients, same, objective]
    return SimpleNamespace(CROP=CROP, N=N, STUDENT=STUDENT, TEACHER=TEACHER, **{tool.__name__: tool for tool in tools})
