"""The objective: names, weights, honest needs, refused clashes, two students."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional

import configs
from configs.errors import RequestError, RunError
from configs.schema import Losses
from kdlosses import Needs, build_objective, build_objectives, compute, draw_projection, layers_of, needed_targets
from kdlosses.labels import label
from kdlosses.modules import MODULES
from models import LAYERS, Outputs
from pairs.batch import Boxes

CFKD = {"teacher_soft": 1, "adaptive_hard": 0.1, "fidelity": 100, "correlation_filter": 0.01}
TSKD = {
    "teacher_soft": {"form": "mse"},
    "adaptive_hard": {"weight": 0.1, "form": "mse"},
    "target_response": 100,
}
COMPRESSION = {"teacher_soft": 1, "adaptive_hard": 0.1, "projected_fidelity": 0.01, "tracking": 100}
TERMS: list[dict[str, Any]] = [
    {"ground_truth": 1},
    {"teacher_soft": 1},
    {"adaptive_hard": {"threshold": 100.0}},
    {"fidelity": 1},
    {"fidelity": {"layers": ("conv1", "layer3")}},
    {"projected_fidelity": 1},
    {"projected_fidelity": {"layers": ("layer1",)}},
    {"projected_fidelity": {"projection": "trained"}},
    {"correlation_filter": 1},
    {"target_response": 1},
    {"target_response": {"weights": "gaussian", "layers": ("layer2",)}},
    {"tracking": 1},
]


def only(one: Outputs, layers: tuple[str, ...]) -> Outputs:
    return Outputs(one.prediction, {k: one.ref[k] for k in layers}, {k: one.test[k] for k in layers})


@pytest.mark.parametrize("numbers", [1, 4])
@pytest.mark.parametrize("losses", [CFKD, TSKD, COMPRESSION])
def test_terms_are_named_and_weighted(losses: dict[str, Any], numbers: int, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 3, 0, numbers=numbers, grad=True),
        kit.outputs(kit.TEACHER, 3, 1, numbers=numbers),
        kit.boxes(3),
    )
    objective = kit.objective(numbers, **losses)
    targets = compute(objective.needs.targets, teacher, boxes, objective.projection)
    found = objective(student, targets, boxes)
    assert list(found) == list(losses) == list(objective.per_term)
    for name, term in Losses.model_validate(losses).active().items():
        (alone,) = kit.objective(numbers, **{name: {**term.model_dump(), "weight": 1}})(student, targets, boxes).values()
        assert found[name].shape == () and found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(term.weight * alone.item(), rel=1e-6)


def test_needs_of_the_published_objectives(kit: SimpleNamespace) -> None:
    assert kit.objective(**CFKD).needs == (("iou", "abs_sum"), LAYERS)
    assert kit.objective(**TSKD).needs == (("iou", "response"), LAYERS)
    assert kit.objective(**COMPRESSION).needs == (("iou", "projected"), ("layer1", "layer2", "layer3"))
    assert kit.objective(ground_truth=1, correlation_filter=1, tracking=1).needs == ((), LAYERS)
    assert kit.objective(**CFKD).per_term["correlation_filter"] == Needs((), LAYERS)


@pytest.mark.parametrize("losses", TERMS, ids=str)
def test_needs_are_enough_and_none_is_idle(losses: dict[str, Any], kit: SimpleNamespace) -> None:
    (term,) = losses
    objective, boxes = kit.objective(**losses), kit.boxes(2)
    student = only(kit.outputs(kit.STUDENT, 2, 0, grad=True), objective.needs.student_layers)
    teacher = only(kit.outputs(kit.TEACHER, 2, 1), layers_of(objective.needs.targets))
    targets = compute(objective.needs.targets, teacher, boxes, objective.projection)
    (loss,) = objective(student, targets, boxes).values()
    loss.backward()
    leaves = student.ref.values() if student.ref else [student.prediction]
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)
    for name in objective.needs.targets:
        fewer = {key: value for key, value in targets.items() if key.split("/")[0] != name}
        with pytest.raises(RunError, match=rf"losses\.{term}: expected target '{name}/\w+', found .*; cache target '{name}'"):
            objective(student, fewer, boxes)
    for layer in objective.needs.student_layers:
        rest = tuple(other for other in objective.needs.student_layers if other != layer)
        with pytest.raises(RunError, match=rf"losses\.{term}: expected student features of '{layer}', found"):
            objective(only(student, rest), targets, boxes)


def test_a_term_sees_its_declared_targets_only(kit: SimpleNamespace) -> None:
    objective, boxes = kit.objective(fidelity=1, teacher_soft=1), kit.boxes(2)
    targets = compute(objective.needs.targets, kit.outputs(kit.TEACHER, 2, 1), boxes)
    objective.per_term["fidelity"] = Needs(("iou",))
    with pytest.raises(RunError, match=r"losses\.fidelity: expected target 'abs_sum/layer2_ref', found iou/iou; cache target 'abs_sum'"):
        objective(kit.outputs(kit.STUDENT, 2, 0), targets, boxes)


@pytest.mark.parametrize("losses", [CFKD, TSKD, COMPRESSION, {**CFKD, "mutual_students": 1}])
def test_nothing_waits_for_the_device(losses: dict[str, Any], kit: SimpleNamespace) -> None:
    """Fake tensors have no data: whatever reads a number back (.item(), bool(), a data-dependent shape) raises."""
    with FakeTensorMode():
        objective, boxes, student = kit.objective(**losses), kit.boxes(2), kit.outputs(kit.STUDENT, 2, 0, grad=True)
        targets = compute(objective.needs.targets, kit.outputs(kit.TEACHER, 2, 1), boxes, objective.projection)
        outputs = (student, kit.outputs(kit.STUDENT, 2, 3, grad=True)) if "mutual_students" in losses else student
        found = objective(outputs, targets, boxes)
        sum(found.values(), torch.zeros(())).backward()
        with pytest.raises(DataDependentOutputException):
            next(iter(found.values())).item()
    assert student.prediction.grad is not None


@pytest.mark.parametrize("losses", [CFKD, TSKD, COMPRESSION])
def test_losses_are_float32_under_autocast(losses: dict[str, Any], kit: SimpleNamespace) -> None:
    objective, boxes, student = kit.objective(**losses), kit.boxes(2), kit.outputs(kit.STUDENT, 2, 0)
    targets = compute(objective.needs.targets, kit.outputs(kit.TEACHER, 2, 1), boxes, objective.projection)
    plain = objective(student, targets, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(student, targets, boxes)
    assert {name: value.item() for name, value in found.items()} == {name: value.item() for name, value in plain.items()}


def test_bfloat16_features_are_taken(kit: SimpleNamespace) -> None:
    objective, boxes, student = kit.objective(**CFKD), kit.boxes(2), kit.outputs(kit.STUDENT, 2, 0)
    half = Outputs(
        student.prediction, *({k: v.bfloat16().requires_grad_() for k, v in maps.items()} for maps in (student.ref, student.test))
    )
    whole = Outputs(student.prediction, *({k: v.detach().float() for k, v in maps.items()} for maps in (half.ref, half.test)))
    targets = compute(objective.needs.targets, kit.outputs(kit.TEACHER, 2, 1), boxes)
    found, wanted = objective(half, targets, boxes), objective(whole, targets, boxes)
    assert {name: value.item() for name, value in found.items()} == {name: value.item() for name, value in wanted.items()}
    sum(found.values(), torch.zeros(())).backward()
    assert half.ref["conv1"].grad is not None and half.ref["conv1"].grad.dtype == torch.bfloat16


def test_fixed_projection_is_shared_and_can_be_taken_from_the_cache(kit: SimpleNamespace) -> None:
    objective, boxes = kit.objective(projected_fidelity={"seed": 5}), kit.boxes(2)
    assert not any(parameter.requires_grad for parameter in objective.parameters())
    drawn = draw_projection(5, kit.STUDENT, kit.TEACHER)
    assert all(torch.equal(matrix, drawn[layer]) for layer, matrix in objective.projection.items())
    other = draw_projection(6, kit.STUDENT, kit.TEACHER)
    objective.use_projection(other)
    assert torch.equal(objective.projection["layer2"], other["layer2"])
    student, teacher = kit.outputs(kit.STUDENT, 2, 0), kit.outputs(kit.TEACHER, 2, 1)
    (found,) = objective(student, compute(("projected",), teacher, boxes, other), boxes).values()
    (wanted,) = kit.objective(projected_fidelity={"seed": 6})(student, compute(("projected",), teacher, boxes, other), boxes).values()
    assert found.item() == wanted.item()
    with pytest.raises(RequestError, match=r"a stored projection of layer2 of shape \(8, 5\) .*found \(8, 4\); cache target 'projected'"):
        objective.use_projection({**other, "layer2": torch.zeros(8, 4)})
    with pytest.raises(RequestError, match=r"expected a stored projection of layer3 .* found None; cache target 'projected'"):
        objective.use_projection({"layer2": other["layer2"]})


def mutual(dull: Outputs, intelligent: Outputs, teacher: Outputs, boxes: Boxes, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma_d * SS and 0.5 * sigma_i * SS, by hand."""
    wanted = label(boxes, 1)
    between = functional.smooth_l1_loss(dull.prediction, intelligent.prediction)
    floor = functional.smooth_l1_loss(teacher.prediction, wanted)
    sigma = [0.9**epoch if functional.smooth_l1_loss(one.prediction, wanted) - floor < 0.005 else 0.0 for one in (dull, intelligent)]
    return sigma[0] * between, 0.5 * sigma[1] * between


@pytest.mark.parametrize("epoch", [0, 3])
def test_two_students(epoch: int, kit: SimpleNamespace) -> None:
    losses = {**TSKD, "mutual_students": 2}
    boxes, teacher = kit.boxes(3), kit.outputs(kit.TEACHER, 3, 1)
    dull = kit.outputs(kit.STUDENT, 3, 0, grad=True)
    narrow = {layer: count - 1 for layer, count in kit.STUDENT.items()}
    intelligent = kit.outputs(narrow, 3, 2, grad=True)
    with torch.no_grad():
        # the intelligent student is near the label, the dull one and the teacher are between
        intelligent.prediction.copy_(label(boxes, 1) + 0.01)
        teacher.prediction = label(boxes, 1) + 0.5
    objective = build_objective(Losses.model_validate(losses), kit.STUDENT, kit.TEACHER, 1, narrow)
    targets = compute(objective.needs.targets, teacher, boxes)
    found = objective((dull, intelligent), targets, boxes, epoch)
    names = [f"{student}/{term}" for student in ("dull", "intelligent") for term in TSKD]
    assert list(found) == [*names, "mutual_students/dull", "mutual_students/intelligent"]
    assert list(objective.per_term) == list(losses)
    for prefix, student in (("dull", dull), ("intelligent", intelligent)):
        for name, value in kit.objective(**TSKD)(student, targets, boxes).items():
            assert found[f"{prefix}/{name}"].item() == pytest.approx(value.item(), rel=1e-6)
    wanted = mutual(dull, intelligent, teacher, boxes, epoch)
    shares = [found["mutual_students/dull"], found["mutual_students/intelligent"]]
    assert [share.item() for share in shares] == pytest.approx([2 * float(share.detach()) for share in wanted], rel=1e-5)
    assert shares[1].item() > 0
    for share, twin in zip(shares, wanted, strict=True):
        if twin.requires_grad and float(twin.detach()):
            both = [dull.prediction, intelligent.prediction]
            for first, second in zip(torch.autograd.grad(share, both, retain_graph=True), torch.autograd.grad(2 * twin, both), strict=True):
                assert kit.relative(first, second) < 1e-5


def test_a_student_far_from_the_teacher_is_not_taught_by_the_other(kit: SimpleNamespace) -> None:
    boxes, teacher = kit.boxes(3), kit.outputs({}, 3, 1)
    dull, intelligent = (kit.outputs({}, 3, seed, grad=True) for seed in (0, 2))
    with torch.no_grad():
        teacher.prediction = label(boxes, 1)
        dull.prediction.copy_(label(boxes, 1) + 1)
        intelligent.prediction.copy_(label(boxes, 1) + 0.05)
    objective = kit.objective(teacher_soft=1, mutual_students={"dull": 0.7, "intelligent": 0.3, "decay": 0.5})
    found = objective((dull, intelligent), compute(("iou",), teacher, boxes), boxes, 2)
    assert found["mutual_students/dull"].item() == 0
    between = functional.smooth_l1_loss(dull.prediction, intelligent.prediction).item()
    assert found["mutual_students/intelligent"].item() == pytest.approx(0.3 * 0.25 * between, rel=1e-5)


def test_two_students_with_trained_projections_have_one_each(kit: SimpleNamespace) -> None:
    losses = Losses.model_validate({"projected_fidelity": {"projection": "trained"}, "mutual_students": 1})
    narrow = {layer: count - 1 for layer, count in kit.STUDENT.items()}
    objective = build_objective(losses, kit.STUDENT, kit.TEACHER, 1, narrow)
    assert [tuple(p.shape) for p in objective.parameters()] == [(8, 5), (9, 6), (8, 4), (9, 5)]


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, "expected a loss term, found none; add"),
    ({"mutual_students": 1}, {}, "expected a loss term beside mutual_students, found none; add"),
    ({"ground_truth": 1}, {"numbers": 2}, "expected 1 .IoU. or 4 .box. numbers a proposal, found 2"),
    ({"ground_truth": 1}, {"second_channels": {"layer2": 3}}, "expected losses.mutual_students with a second student, found none"),
    (
        {"teacher_soft": 1},
        {"teacher_channels": None},
        "expected a teacher for losses.teacher_soft .target iou., found none; set teacher",
    ),
    ({"fidelity": 1}, {"teacher_channels": None}, "expected a teacher for losses.fidelity .target abs_sum., found none"),
    (
        {"correlation_filter": 1},
        {"student_channels": {"layer2": 3}},
        "expected a student with layer 'conv1' for losses.correlation_filter, found layer2",
    ),
    (
        {"tracking": 1},
        {"student_channels": {}},
        "expected a student with layer 'layer1' for losses.tracking, found none; set losses.tracking.layers",
    ),
    ({"fidelity": 1}, {"teacher_channels": {"layer2": 3}}, "expected a teacher with layer 'layer3' for losses.fidelity, found layer2"),
    (
        {"projected_fidelity": {"layers": ("layer3",)}},
        {"student_channels": {"layer3": 3}},
        "expected a student with layer 'layer2' for losses.projected_fidelity, found layer3",
    ),
    (
        {"projected_fidelity": 1, "mutual_students": 1},
        {"second_channels": {"layer2": 2, "layer3": 6}},
        r"expected two students with equal channels of layer2 .*, found \[5, 2\]; set losses.projected_fidelity.projection=trained",
    ),
    (
        {"correlation_filter": 1, "mutual_students": 1},
        {"second_channels": {"layer2": 2}},
        "expected a student with layer 'conv1' for losses.correlation_filter, found layer2",
    ),
]


@pytest.mark.parametrize(("losses", "changed", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_clashes_are_refused(losses: dict[str, Any], changed: dict[str, Any], message: str, kit: SimpleNamespace) -> None:
    networks: dict[str, Any] = {"student_channels": kit.STUDENT, "teacher_channels": kit.TEACHER, "numbers": 1, **changed}
    with pytest.raises(RequestError, match=message):
        build_objective(Losses.model_validate(losses), **networks)


def test_maps_and_heads_of_other_sizes_are_refused(kit: SimpleNamespace) -> None:
    student, boxes = kit.outputs(kit.STUDENT, 2, 0), kit.boxes(2)
    targets = compute(("iou", "abs_sum", "projected"), kit.outputs(kit.TEACHER, 2, 1), boxes, draw_projection(0, kit.STUDENT, kit.TEACHER))
    for losses, key in (
        ({"fidelity": 1}, "abs_sum/layer2_ref"),
        ({"teacher_soft": 1}, "iou/iou"),
        ({"projected_fidelity": 1}, "projected/layer3_test"),
    ):
        (term,) = losses
        with pytest.raises(RequestError, match=rf"losses\.{term}: expected .*, found \("):
            kit.objective(**losses)(student, {**targets, key: targets[key][..., 1:]}, boxes)


def test_number_of_students_must_fit(kit: SimpleNamespace) -> None:
    student, boxes = kit.outputs({}, 2, 0), kit.boxes(2)
    with pytest.raises(RunError, match=r"expected the outputs of 1 student\(s\), found 2"):
        kit.objective(ground_truth=1)((student, student), {}, boxes)
    with pytest.raises(RunError, match=r"expected the outputs of 2 student\(s\), found 1"):
        kit.objective(ground_truth=1, mutual_students=1)(student, {}, boxes)


def test_every_section_of_the_schema_has_a_module() -> None:
    assert set(MODULES) == set(Losses.sections().values())


def test_the_objectives_of_a_setting() -> None:
    """One a phase; what precompute caches for a setting is what they need."""
    config = configs.load("sep")
    assert [list(objective.per_term) for objective in build_objectives(config, "atom_resnet18")] == [
        ["fidelity", "correlation_filter"],
        ["teacher_soft", "adaptive_hard"],
    ]
    assert needed_targets(build_objectives(config, "atom_resnet18")) == ("iou", "abs_sum")
    assert needed_targets(build_objectives(configs.load("atom_tskd"), "atom_resnet18")) == ("iou", "response")
    assert needed_targets(build_objectives(configs.load("gt"), None)) == ()
    twice = configs.load("atom_tsskd", ["second_student.architecture=atom_resnet18tiny"])
    (objective,) = build_objectives(twice, "atom_resnet18")
    assert len(objective.terms) == 2 and list(objective.mutual) == ["mutual_students"]


@pytest.mark.parametrize(
    ("setting", "teacher", "message"),
    [
        (
            "atom_cfkd",
            "drnet_resnet50",
            r"teacher.architecture: expected 1 number\(s\) a proposal as atom_mobilenetsmall has, found 4; pair",
        ),
        (
            "drnet_cfkd",
            "atom_resnet18",
            r"teacher.architecture: expected 4 number\(s\) a proposal as drnet_mobilenetsmall has, found 1; pair",
        ),
        ("atom_cfkd", None, "expected a teacher for losses.teacher_soft .target iou., found none; set teacher.architecture"),
    ],
)
def test_networks_that_do_not_fit_together_are_refused(setting: str, teacher: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build_objectives(configs.load(setting), teacher)


def test_a_second_student_with_another_head_is_refused() -> None:
    config = configs.load("atom_tsskd", ["second_student.architecture=drnet_mobilenetsmall"])
    with pytest.raises(RequestError, match=r"second_student.architecture: expected 1 number\(s\) a proposal as \w+ has, found 4; pair"):
        build_objectives(config, "atom_resnet18")


@pytest.mark.parametrize("losses", [losses for losses in TERMS if not {*losses} <= {"ground_truth", "teacher_soft", "adaptive_hard"}])
def test_gradients_of_maps_have_their_memory_format_and_the_same_numbers(losses: dict[str, Any], kit: SimpleNamespace) -> None:
    teacher, boxes, objective = kit.outputs(kit.TEACHER, 3, 1), kit.boxes(3), kit.objective(**losses)
    targets = compute(objective.needs.targets, teacher, boxes, objective.projection)
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        plain = kit.outputs(kit.STUDENT, 3, 0)
        laid = [
            {layer: value.contiguous(memory_format=form).requires_grad_() for layer, value in maps.items()}
            for maps in (plain.ref, plain.test)
        ]
        (value,) = objective(Outputs(plain.prediction, *laid), targets, boxes).values()
        wanted = [maps[layer] for layer in objective.needs.student_layers for maps in laid]
        gradients = torch.autograd.grad(value, wanted, allow_unused=True)
        assert all(gradient is None or gradient.is_contiguous(memory_format=form) for gradient in gradients)
        found.append([value, *(gradient for gradient in gradients if gradient is not None)])
    for contiguous, last in zip(*found, strict=True):
        assert kit.relative(last, contiguous) < 2e-5
