"""The live teacher: targets of images, through a real network, with ref and test of different sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from configs.errors import RequestError
from configs.schema import Losses, PairsConfig
from kdlosses import TARGETS, LiveTeacher, Sizes, build_objective, compute, draw_projection, layers_of, target_spec
from kdlosses.rounding import round_mantissa
from pairs.batch import Boxes

ARCHITECTURE = "atom_resnet18tiny"
CHANNELS, _ = models.network_sizes(ARCHITECTURE)
PROJECTION = draw_projection(0, CHANNELS, CHANNELS)


@pytest.fixture
def network() -> models.TeacherNetwork:
    torch.manual_seed(0)
    return models.TeacherNetwork(models.build(ARCHITECTURE))


@pytest.fixture
def small(kit: SimpleNamespace) -> PairsConfig:
    """The crops of today's trackers: 128 at factor 2, 256 at factor 4."""
    geometry: PairsConfig = kit.shaped((128, 2.0), (256, 4.0))
    return geometry


def images(boxes: Boxes) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    ref, test = (torch.randn(len(boxes), 3, image.size, image.size, generator=random) for image in (boxes.ref, boxes.test))
    return ref, test


def test_its_targets_are_those_of_its_network(network: models.TeacherNetwork, small: PairsConfig, kit: SimpleNamespace) -> None:
    boxes = kit.boxes(2, geometry=small)
    ref, test = images(boxes)
    found = LiveTeacher(network).targets(ref, test, boxes, tuple(TARGETS), PROJECTION)
    outputs = network(ref, test, boxes.ref_box, boxes.proposals, layers_of(TARGETS))
    wanted = compute(TARGETS, outputs, boxes, PROJECTION)
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    sizes = Sizes(CHANNELS, 1, small, CHANNELS)
    shapes = {f"{name}/{array.name}": array.shape for name in TARGETS for array in target_spec(name, sizes).arrays}
    assert {key: tuple(value.shape[1:]) for key, value in found.items()} == shapes


@pytest.mark.parametrize(
    "losses",
    [
        {"teacher_soft": 1, "fidelity": 1, "projected_fidelity": 1, "correlation_filter": 1, "target_response": 1, "tracking": 1},
        {"adaptive_hard": {"threshold": 100.0}, "projected_fidelity": {"projection": "trained"}},
    ],
    ids=["fixed", "trained"],
)
def test_a_student_learns_from_crops_of_two_sizes(
    losses: dict[str, Any], network: models.TeacherNetwork, small: PairsConfig, kit: SimpleNamespace
) -> None:
    torch.manual_seed(1)
    student, boxes = models.build("atom_mobilenetsmall"), kit.boxes(2, geometry=small)
    objective = build_objective(Losses.model_validate(losses), student.channels, CHANNELS, 1)
    ref, test = images(boxes)
    targets = LiveTeacher(network).targets(ref, test, boxes, objective.needs.targets, objective.projection)
    outputs = student(ref, test, boxes.ref_box, boxes.proposals, objective.needs.student_layers)
    terms = objective(outputs, targets, boxes)
    assert list(terms) == list(losses) and all(value > 0 and value.isfinite() for value in terms.values())
    sum(terms.values(), torch.zeros(())).backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_only_whole_features_are_rounded(network: models.TeacherNetwork, small: PairsConfig, kit: SimpleNamespace) -> None:
    boxes = kit.boxes(1, geometry=small)
    teacher, names = LiveTeacher(network, feature_bits=3), ("iou", "features")
    exact = teacher.exact(*images(boxes), boxes, names)
    rounded = teacher.rounded(exact)
    for key, value in exact.items():
        if key.startswith("features/"):
            assert torch.equal(rounded[key], round_mantissa(value, 3).float()) and not torch.equal(rounded[key], value)
        else:
            assert rounded[key] is value
    assert all(torch.equal(value, rounded[key]) for key, value in teacher.targets(*images(boxes), boxes, names).items())


def test_nothing_asked_starts_no_network(kit: SimpleNamespace) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("the network ran")

    teacher = LiveTeacher(broken, channels_last=False)  # type: ignore[arg-type]
    assert teacher.targets(*images(kit.boxes(1)), kit.boxes(1), ()) == {}
    with pytest.raises(AssertionError, match="the network ran"):
        teacher.targets(*images(kit.boxes(1)), kit.boxes(1), ("iou",))


def test_channels_last_reaches_the_network_and_changes_rounding_only(network: models.TeacherNetwork, kit: SimpleNamespace) -> None:
    boxes = kit.boxes(2)
    network.to(memory_format=torch.contiguous_format)
    plain = LiveTeacher(network, channels_last=False).targets(*images(boxes), boxes, ("iou", "abs_sum"))
    teacher = LiveTeacher(network)
    kernels = [weight for weight in teacher.network.parameters() if weight.dim() == 4 and weight.shape[2] > 1 and weight.shape[1] > 1]
    assert kernels and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    for key, value in teacher.targets(*images(boxes), boxes, ("iou", "abs_sum")).items():
        assert kit.relative(value, plain[key]) < 1e-4


def test_a_projected_target_needs_its_projection(network: models.TeacherNetwork, kit: SimpleNamespace) -> None:
    with pytest.raises(RequestError, match="expected the projection for a projected target, found none"):
        LiveTeacher(network).targets(*images(kit.boxes(1)), kit.boxes(1), ("projected",))
