"""The classifier's answer against a plain least-squares problem a pair, and the term against answers written out here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from configs.schema import ImageConfig, Losses, PairsConfig
from kdlosses import compute
from kdlosses.ridge import REGULARISATION, label_map, ridge_answer
from models import STRIDES
from pairs.batch import Boxes


def plain_answer(ref: Tensor, test: Tensor, labels: Tensor) -> Tensor:
    """One pair: (C, H, W), (C, H', W'), (H, W) -> (H', W'). Ridge regression with an intercept as an augmented least-squares problem."""
    ref, test = (features / (features.square().mean() + 1e-10).sqrt() for features in (ref, test))
    cells, asked, count = ref.flatten(1).T, test.flatten(1).T, labels.numel()
    mean = cells.mean(0)
    rows = torch.cat([(cells - mean) / count**0.5, REGULARISATION**0.5 * torch.eye(len(mean), dtype=ref.dtype)])
    wanted = torch.cat([(labels.flatten() - labels.mean()) / count**0.5, torch.zeros(len(mean), dtype=ref.dtype)])
    weights = torch.linalg.lstsq(rows, wanted[:, None]).solution
    return ((asked - mean) @ weights + labels.mean()).reshape(test.shape[1:])


@pytest.mark.parametrize("channels", [5, 60])
def test_the_answer_is_ridge_regression_with_more_cells_or_more_channels(channels: int, geometry: PairsConfig, kit: SimpleNamespace):
    found = kit.outputs({"layer2": channels, "layer3": channels}, 3, 1, geometry=geometry, grad=True)
    boxes = kit.boxes(3, 2, geometry)
    for layer in ("layer2", "layer3"):
        ref, test, stride = found.ref[layer], found.test[layer], STRIDES[layer]
        answer = ridge_answer(ref, test, boxes, stride)
        labels = label_map(boxes.ref_box, geometry.ref, (ref.shape[-2], ref.shape[-1]), stride)
        wanted = torch.stack([plain_answer(*pair) for pair in zip(ref.double(), test.double(), labels.double(), strict=True)])
        weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(3))
        assert kit.relative(answer, wanted) < 1e-4
        grads, plain = (torch.autograd.grad((numbers * weights).sum(), (ref, test)) for numbers in (answer, wanted))
        assert all(kit.relative(first, second) < 1e-3 for first, second in zip(grads, plain, strict=True))


def test_features_that_mark_the_target_find_it_and_those_that_do_not_answer_the_mean():
    image = ImageConfig(size=96, area_factor=4)
    box = torch.tensor([[30.0, 46, 24, 24]])
    boxes = Boxes(torch.tensor([[36.0, 36, 24, 24]]), box, box[:, None], image, image)
    ref, test = (label_map(where, image, (12, 12), 8)[:, None] for where in (boxes.ref_box, box))
    answer = ridge_answer(ref, test, boxes, 8)
    # centre (42, 58) in crop pixels lies in the cell of row 7, column 5
    assert int(answer.argmax()) == 7 * 12 + 5
    assert answer.max() > 0.7 and answer[0, 0, 0].abs() < 0.15
    same = torch.ones(1, 1, 12, 12)
    assert torch.allclose(ridge_answer(same, same, boxes, 8), label_map(boxes.ref_box, image, (12, 12), 8).mean(), atol=1e-6)


def test_the_label_is_a_quarter_of_the_target_wide_and_three_quarters_of_a_cell_at_least():
    box = torch.tensor([[76.0, 76, 40, 40]])  # centre 96: between two cells of 8 pixels, on the middle of none
    fine, coarse = (label_map(box, ImageConfig(size=192, area_factor=factor), (24, 24), 8)[0, 12] for factor in (4.0, 24.0))
    for row, sigma in ((fine, 24 / 4 / 4), (coarse, 0.75)):
        assert float((row[14] / row[12]).log()) == pytest.approx((0.5**2 - 2.5**2) / (2 * sigma**2), rel=1e-4)


@pytest.mark.parametrize("wanted", ["label", "teacher"])
def test_the_term_is_the_mean_square_from_label_or_teacher(wanted: str, geometry: PairsConfig, kit: SimpleNamespace):
    student, teacher = kit.outputs(kit.STUDENT, 4, 1, geometry=geometry, grad=True), kit.outputs(kit.TEACHER, 4, 2, geometry=geometry)
    boxes = kit.boxes(4, 3, geometry)
    objective = kit.objective(classifier={"weight": 3, "wanted": wanted}, teacher=wanted == "teacher")
    assert objective.needs.targets == (("classifier",) if wanted == "teacher" else ())
    targets = compute(objective.needs.targets, teacher, boxes)
    total = torch.zeros(())
    for layer in ("layer2", "layer3"):
        answer = ridge_answer(student.ref[layer], student.test[layer], boxes, STRIDES[layer])
        if wanted == "teacher":
            aim = ridge_answer(teacher.ref[layer], teacher.test[layer], boxes, STRIDES[layer])
        else:
            aim = label_map(boxes.test_box, geometry.test, (answer.shape[-2], answer.shape[-1]), STRIDES[layer])
        total = total + ((answer - aim) ** 2).sum() / answer.numel()
    kit.same(objective((student,), targets, boxes, 0)["classifier"], 3 * total, student, 1e-5)


def test_the_term_looks_at_deep_layers_only():
    with pytest.raises(ValueError, match="conv1"):
        Losses.model_validate({"classifier": {"layers": ["conv1"]}})
