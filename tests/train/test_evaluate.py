"""Measures against plain formulas, and pictures against what they should show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from configs.schema import ImageConfig
from configs.tracking import RefinementConfig
from kdlosses.labels import box_label, iou_label
from models.refine import boxes_of_numbers
from pairs.batch import Batch, Boxes
from pairs.boxes import box_iou
from pairs.decode.decoder import MEAN, STD
from train.evaluate import Agreement, Validation, chosen_boxes, summary
from train.reports import pictures


def some_boxes(count: int, proposals: int = 5, seed: int = 0, ref: int = 64) -> Boxes:
    generator = torch.Generator().manual_seed(seed)
    box = torch.cat([torch.rand(count, 2, generator=generator) * 20 + 10, torch.rand(count, 2, generator=generator) * 20 + 10], 1)
    noise = torch.cat(
        [torch.rand(count, proposals, 2, generator=generator) * 8 - 4, torch.rand(count, proposals, 2, generator=generator) * 6 - 3], 2
    )
    return Boxes(box, box, box[:, None] + noise, ImageConfig(size=ref), ImageConfig(size=64))


def test_agreement_over_batches_is_the_plain_formula_over_all():
    torch.manual_seed(0)
    found, predicted, truth = Agreement(torch.device("cpu")), [], []
    for count, seed in ((4, 1), (7, 2), (1, 3)):
        boxes = some_boxes(count, seed=seed)
        prediction = iou_label(boxes.proposals, boxes.test_box) + 0.3 * torch.randn(count, 5)
        found.add(prediction, boxes)
        predicted.append(((prediction + 1) / 2).flatten())
        truth.append(box_iou(boxes.proposals, boxes.test_box[:, None]).flatten())
    x, y = torch.cat(predicted).double(), torch.cat(truth).double()
    assert found.result()["iou_error"] == pytest.approx(float((x - y).abs().mean()), rel=1e-6)
    assert found.result()["correlation"] == pytest.approx(float(np.corrcoef(x, y)[0, 1]), rel=1e-6)


def test_agreement_of_nothing_and_of_a_constant_is_not_a_number():
    found = Agreement(torch.device("cpu"))
    assert math.isnan(found.result()["iou_error"]) and math.isnan(found.result()["correlation"])
    found.add(torch.zeros(3, 5), some_boxes(3))
    assert math.isnan(found.result()["correlation"]) and 0 < found.result()["iou_error"] < 1


def test_perfect_box_numbers_make_the_target_of_every_proposal():
    boxes = some_boxes(6)
    numbers = box_label(boxes.proposals, boxes.test_box)
    torch.testing.assert_close(boxes_of_numbers(numbers, boxes.proposals), boxes.test_box[:, None].expand(-1, 5, -1))
    found = Agreement(torch.device("cpu"))
    found.add(numbers, boxes)
    assert found.result()["iou_error"] == pytest.approx(0, abs=1e-5) and found.result()["correlation"] == pytest.approx(1)
    torch.testing.assert_close(chosen_boxes(numbers, boxes), boxes.test_box)
    assert torch.isfinite(boxes_of_numbers(numbers * 1e4, boxes.proposals)).all(), "an untrained student must not spoil the mean"


def test_a_validation_weighs_batches_by_their_pairs():
    found = Validation(1, torch.device("cpu"))
    for count, value in ((4, 1.0), (2, 4.0)):
        boxes = some_boxes(count)
        found.add(
            {"b": torch.tensor(value), "a": torch.tensor(0.5)}, (torch.zeros(count, 5),), boxes, iou_label(boxes.proposals, boxes.test_box)
        )
    result = found.result()
    assert result["terms"] == {"a": pytest.approx(0.5), "b": pytest.approx(2.0)} and result["loss"] == pytest.approx(2.5)
    assert result["teacher_iou_error"] == pytest.approx(0, abs=1e-6) and result["teacher_correlation"] == pytest.approx(1)


@pytest.mark.parametrize("teacher", [[], ["good"]])
def test_the_refinement_gain_is_measured_on_so_many_pairs(monkeypatch: pytest.MonkeyPatch, teacher: list[str]):
    calls = []

    def target_itself(tracker, images, ref_box, boxes, steps, step):
        calls.append((steps, step))
        return batch.boxes.test_box[:, None].expand_as(boxes) if tracker == "good" else boxes

    monkeypatch.setattr("train.evaluate.refine", target_itself)
    found, boxes = Validation(2, torch.device("cpu")), some_boxes(3)
    batch = Batch(torch.zeros(1), torch.zeros(1), boxes, {}, False, np.arange(3), np.arange(3))
    for _ in range(3):
        found.add({"a": torch.tensor(1.0)}, (torch.zeros(3, 5), torch.zeros(3, 5)), boxes, None)
        found.refine(["good", "idle", *teacher], batch, RefinementConfig(steps=4), most=5)
    result, jittered = found.result(), float(box_iou(boxes.proposals, boxes.test_box[:, None]).mean())
    assert calls == [(4, pytest.approx(64 / 288))] * (4 + 2 * len(teacher)), "two batches of three pairs"
    assert result["jittered_iou"] == pytest.approx(jittered) and result["refined_iou"] == pytest.approx(1)
    assert result["refinement_gain"] == pytest.approx(1 - jittered) and result["second_refinement_gain"] == pytest.approx(0)
    assert result.get("teacher_refinement_gain") == (pytest.approx(1 - jittered) if teacher else None)
    assert summary(2, result).endswith(f"refinement {jittered:.3f} to 1.000 IoU" + " (teacher: to 1.000)" * len(teacher))


@pytest.mark.parametrize("size", [64, 96])
def test_a_picture_shows_crops_in_their_colours_and_every_box(size):
    boxes, numbers = some_boxes(4, ref=size), np.arange(4)
    red, mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((1.0, 0.0, 0.0), MEAN, STD))
    ref, test = (((red - mean) / std).expand(4, 3, side, side) for side in (size, 64))
    best = iou_label(boxes.proposals, boxes.test_box)
    image = pictures.draw(Batch(ref, test, boxes, {}, False, numbers, numbers), best, -best, 3)
    tile = (pictures.SIDE + pictures.LINE + 2 * pictures.GAP, 2 * pictures.SIDE + 3 * pictures.GAP)
    assert image.dtype == np.uint8 and image.shape == (2 * tile[0] + pictures.LINE + pictures.GAP, 2 * tile[1], 3)
    first = image[pictures.LINE + pictures.GAP :][: tile[0], : tile[1]]
    assert tuple(first[pictures.LINE + 3, pictures.GAP + 3]) == (255, 0, 0)
    for left, side, box in ((pictures.GAP, size, boxes.ref_box[0]), (2 * pictures.GAP + pictures.SIDE, 64, boxes.test_box[0])):
        # the left edge of the target, in its own crop's scale
        x, y, _, h = (round(float(value) * pictures.SIDE / side) for value in box)
        edge = first[pictures.LINE + y : pictures.LINE + y + h, left + x]
        assert (edge == np.array(pictures.TARGET)).all(-1).mean() > 0.5
    for colour in (pictures.TARGET, pictures.STUDENT, pictures.TEACHER):
        drawn = first[pictures.LINE : pictures.LINE + pictures.SIDE, 2 * pictures.GAP + pictures.SIDE :]
        assert (drawn == np.array(colour)).all(-1).sum() > 20, "a box of each kind in the test crop"


def test_a_correlation_where_nothing_varies_is_shown_as_none():
    line = summary(0, {"loss": 1.0, "iou_error": 0.5, "correlation": math.nan, "teacher_iou_error": 0.25, "teacher_correlation": 0.5})
    assert line == "validation after epoch 0: loss 1, IoU error 0.5000, correlation - (teacher: 0.2500, 0.500)"
