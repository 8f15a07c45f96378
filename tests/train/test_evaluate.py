"""Measures against plain formulas, and pictures against what they should show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdlosses import Pairs
from kdlosses.labels import box_label, iou_label
from models.boxes import box_iou
from models.preprocess import MEAN, STD
from train import pictures
from train.evaluate import Agreement, Sample, Validation, chosen_boxes, refined


def some_pairs(count: int, proposals: int = 5, seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    box = torch.cat([torch.rand(count, 2, generator=generator) * 20 + 10, torch.rand(count, 2, generator=generator) * 20 + 10], 1)
    noise = torch.cat(
        [torch.rand(count, proposals, 2, generator=generator) * 8 - 4, torch.rand(count, proposals, 2, generator=generator) * 6 - 3], 2
    )
    return Pairs(box, box, box[:, None] + noise, 64)


def test_agreement_over_batches_is_the_plain_formula_over_all():
    torch.manual_seed(0)
    found, predicted, truth = Agreement(torch.device("cpu")), [], []
    for count, seed in ((4, 1), (7, 2), (1, 3)):
        pairs = some_pairs(count, seed=seed)
        prediction = iou_label(pairs.proposals, pairs.test_box) + 0.3 * torch.randn(count, 5)
        found.add(prediction, pairs)
        predicted.append(((prediction + 1) / 2).flatten())
        truth.append(box_iou(pairs.proposals, pairs.test_box[:, None]).flatten())
    x, y = torch.cat(predicted).double(), torch.cat(truth).double()
    assert found.result()["iou_error"] == pytest.approx(float((x - y).abs().mean()), rel=1e-6)
    assert found.result()["correlation"] == pytest.approx(float(np.corrcoef(x, y)[0, 1]), rel=1e-6)


def test_agreement_of_nothing_and_of_a_constant_is_not_a_number():
    found = Agreement(torch.device("cpu"))
    assert math.isnan(found.result()["iou_error"]) and math.isnan(found.result()["correlation"])
    found.add(torch.zeros(3, 5), some_pairs(3))
    assert math.isnan(found.result()["correlation"]) and 0 < found.result()["iou_error"] < 1


def test_perfect_box_numbers_make_the_target_of_every_proposal():
    pairs = some_pairs(6)
    numbers = box_label(pairs.proposals, pairs.test_box)
    torch.testing.assert_close(refined(numbers, pairs.proposals), pairs.test_box[:, None].expand(-1, 5, -1))
    found = Agreement(torch.device("cpu"))
    found.add(numbers, pairs)
    assert found.result()["iou_error"] == pytest.approx(0, abs=1e-5) and found.result()["correlation"] == pytest.approx(1)
    torch.testing.assert_close(chosen_boxes(numbers, pairs), pairs.test_box)
    assert torch.isfinite(refined(numbers * 1e4, pairs.proposals)).all(), "an untrained student must not spoil the mean"


def test_a_validation_weighs_batches_by_their_pairs():
    found = Validation(1, torch.device("cpu"))
    for count, value in ((4, 1.0), (2, 4.0)):
        pairs = some_pairs(count)
        found.add(
            {"b": torch.tensor(value), "a": torch.tensor(0.5)}, (torch.zeros(count, 5),), pairs, iou_label(pairs.proposals, pairs.test_box)
        )
    result = found.result()
    assert result["terms"] == {"a": pytest.approx(0.5), "b": pytest.approx(2.0)} and result["loss"] == pytest.approx(2.5)
    assert result["teacher_iou_error"] == pytest.approx(0, abs=1e-6) and result["teacher_correlation"] == pytest.approx(1)


def test_a_picture_shows_crops_in_their_colours_and_every_box():
    pairs = some_pairs(3)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(3, 3, 64, 64)
    normalised = (red - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    best = iou_label(pairs.proposals, pairs.test_box)
    image = pictures.draw(Sample(normalised, normalised, pairs, best, -best))
    tile = (pictures.SIDE + pictures.LINE + 2 * pictures.GAP, 2 * pictures.SIDE + 3 * pictures.GAP)
    assert image.dtype == np.uint8 and image.shape == (2 * tile[0] + pictures.LINE + pictures.GAP, 2 * tile[1], 3)
    first = image[pictures.LINE + pictures.GAP :][: tile[0], : tile[1]]
    assert tuple(first[pictures.LINE + 3, pictures.GAP + 3]) == (255, 0, 0)
    x, y, w, _ = (round(float(value) * pictures.SIDE / 64) for value in pairs.ref_box[0])
    assert tuple(first[pictures.LINE + y, pictures.GAP + x + w // 2]) == pictures.TARGET
    for colour in (pictures.TARGET, pictures.STUDENT, pictures.TEACHER):
        test = first[pictures.LINE : pictures.LINE + pictures.SIDE, 2 * pictures.GAP + pictures.SIDE :]
        assert (test == np.array(colour)).all(-1).sum() > 20, "a box of each kind in the test crop"
