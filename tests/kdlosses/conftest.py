"""Small random scenes, B pairs, N = 5 proposals, in three geometries; by default both crops have 96 pixels (maps 48, 24, 12, 6)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from configs.schema import ImageConfig, Losses, PairsConfig, SearchImageConfig
from kdlosses import TARGETS, Objective, Sizes, build_objective, target_spec
from models import STRIDES, Outputs
from pairs.batch import Boxes

N = 5
STUDENT = {"conv1": 4, "layer1": 3, "layer2": 5, "layer3": 6}
TEACHER = {"conv1": 6, "layer1": 7, "layer2": 8, "layer3": 9}


def shaped(ref: tuple[int, float], test: tuple[int, float]) -> PairsConfig:
    """(size, area_factor) of both images."""
    first, second = ({"size": size, "area_factor": factor} for size, factor in (ref, test))
    return PairsConfig(ref=ImageConfig(**first), test=SearchImageConfig(**second), proposals=N)


EQUAL = shaped((96, 5.0), (96, 5.0))
# the first: a target has as many pixels in either image; the second: fewer in ref, whose layer3 has an odd side
UNEQUAL = {"small ref": shaped((64, 2.0), (128, 4.0)), "large ref": shaped((112, 5.0), (64, 2.0))}


def outputs(
    channels: dict[str, int],
    batch: int,
    seed: int,
    *,
    geometry: PairsConfig = EQUAL,
    numbers: int = 1,
    positive: bool = False,
    grad: bool = False,
) -> Outputs:
    random = torch.Generator().manual_seed(seed)

    def maps(image: ImageConfig) -> dict[str, Tensor]:
        found = {}
        for layer, count in channels.items():
            side = image.size // STRIDES[layer]
            value = torch.randn(batch, count, side, side, generator=random) + 0.3
            found[layer] = (value.relu() if positive else value).requires_grad_(grad)
        return found

    shape = (batch, N) if numbers == 1 else (batch, N, numbers)
    prediction = (2 * torch.rand(shape, generator=random) - 1).requires_grad_(grad)
    return Outputs(prediction, maps(geometry.ref), maps(geometry.test))


def boxes(batch: int, seed: int = 0, geometry: PairsConfig = EQUAL) -> Boxes:
    random = torch.Generator().manual_seed(seed)
    ref, test = (
        torch.cat(
            [image.size / 96 * (15 + 40 * torch.rand(batch, 2, generator=random)), 12 + 20 * torch.rand(batch, 2, generator=random)], 1
        )
        for image in geometry.images
    )
    noise = 6 * torch.rand(batch, N, 4, generator=random) - 3
    return Boxes(ref, test, test[:, None] + noise, geometry.ref, geometry.test)


def row(batch: Outputs | Boxes, index: int) -> Outputs | Boxes:
    """Pair `index` alone, as a batch of 1."""
    cut = slice(index, index + 1)
    if isinstance(batch, Boxes):
        return batch.take(cut)
    return Outputs(batch.prediction[cut], {k: v[cut] for k, v in batch.ref.items()}, {k: v[cut] for k, v in batch.test.items()})


def sizes(numbers: int = 1, geometry: PairsConfig = EQUAL) -> Sizes:
    return Sizes(TEACHER, numbers, geometry, STUDENT)


def rounded(targets: dict[str, Tensor], numbers: int = 1, geometry: PairsConfig = EQUAL) -> dict[str, Tensor]:
    """What comes back from a cache: each array through its stored type."""
    found = dict(targets)
    for name in TARGETS:
        for array in target_spec(name, sizes(numbers, geometry)).arrays:
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


def leaves(student: Outputs) -> list[Tensor]:
    return [student.prediction, *student.ref.values(), *student.test.values()]


def gradients(loss: Tensor, student: Outputs) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, leaves(student), allow_unused=True, retain_graph=True))


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


@pytest.fixture(params=["equal", *UNEQUAL])
def geometry(request: pytest.FixtureRequest) -> PairsConfig:
    """Ref and test of the same size, and of two different ones."""
    return UNEQUAL.get(request.param, EQUAL)


@pytest.fixture
def kit() -> SimpleNamespace:
    tools: list[Callable[..., object]] = [outputs, boxes, row, sizes, rounded, relative, leaves, gradients, same, objective, shaped]
    constants = {"N": N, "STUDENT": STUDENT, "TEACHER": TEACHER, "EQUAL": EQUAL, "UNEQUAL": UNEQUAL}
    return SimpleNamespace(**constants, **{tool.__name__: tool for tool in tools})
