"""Fresh augmentation: a function of the position alone, and boxes that go with their mirrored pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from configs.schema import Pairs
from models.preprocess import CropBatch, make_decoder
from train.augment import SIGMA, draw_fresh, flip_boxes, fresh_proposals, is_fresh

PAIRS = Pairs(crop_size=96, proposals=5)


def test_numbers_of_a_position_do_not_depend_on_what_else_is_drawn():
    whole = draw_fresh(4, 0, 64, PAIRS)
    for first, count in ((0, 1), (17, 30), (63, 1)):
        part = draw_fresh(4, first, count, PAIRS)
        for name in ("brightness", "grey", "flip", "blur"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[first : first + count])
    assert not np.array_equal(draw_fresh(5, 0, 64, PAIRS).brightness, whole.brightness)


def test_proposals_of_strided_positions_are_those_of_the_whole_step():
    boxes = np.tile([[30.0, 25.0, 24.0, 18.0]], (16, 1))
    whole = fresh_proposals(boxes, 0, 800, PAIRS)
    for rank in range(4):
        mine = np.arange(rank, 16, 4)
        np.testing.assert_array_equal(fresh_proposals(boxes[mine], 0, 800 + mine, PAIRS), whole[mine])
    assert not np.array_equal(fresh_proposals(boxes, 0, 816, PAIRS), whole)


def test_ranges_follow_the_pair_set():
    drawn = draw_fresh(0, 0, 3000, PAIRS.model_copy(update={"brightness": 0.4, "grey_probability": 1.0}))
    assert 0.6 <= drawn.brightness.min() < 0.61 and 1.39 < drawn.brightness.max() <= 1.4
    assert drawn.grey.all()
    blurred = drawn.blur[drawn.blur > 0]
    assert SIGMA[0] <= blurred.min() and blurred.max() <= SIGMA[1]
    # the two images of a pair are lit and blurred apart from each other
    assert abs(np.corrcoef(drawn.brightness.T)[0, 1]) < 0.08
    assert 0.1 < (drawn.blur[drawn.blur[:, 0] > 0, 1] > 0).mean() < 0.3


@pytest.mark.parametrize("box", [(7, 30, 20, 11), (0, 0, 96, 96), (80, 5, 30, 8), (-6, 40, 20, 20)])
def test_a_box_moves_with_its_pixels(box):
    x, y, w, h = box
    image = np.zeros((96, 96, 3), np.uint8)
    image[max(y, 0) : y + h, max(x, 0) : x + w] = 255
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].ravel()
    crops = CropBatch([jpeg], np.ones(1, np.float32), np.zeros(1, bool), np.ones(1, bool), np.zeros(1, np.float32))
    decoder = make_decoder("torch", lambda index: crops, images=1, size=96, device="cpu", threads=1)
    found = decoder.batch(0)[0, 0] > 0
    decoder.close()
    mirrored = flip_boxes(np.array([box], np.float32), np.array([True]), 96)[0].astype(int).tolist()
    expected = torch.zeros(96, 96, dtype=torch.bool)
    expected[max(mirrored[1], 0) : mirrored[1] + mirrored[3], max(mirrored[0], 0) : mirrored[0] + mirrored[2]] = True
    assert torch.equal(found, expected) and expected.any()


def test_only_flipped_boxes_move_and_the_input_stays():
    boxes = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    before = boxes.copy()
    moved = flip_boxes(boxes, np.array([False, True, False]), 96)
    np.testing.assert_array_equal(boxes, before)
    np.testing.assert_array_equal(moved[[0, 2]], boxes[[0, 2]])
    np.testing.assert_array_equal(moved[1, :, 0], 96 - boxes[1, :, 0] - boxes[1, :, 2])
    np.testing.assert_array_equal(moved[1, :, 1:], boxes[1, :, 1:])


def test_the_ends_of_the_mix():
    assert all(is_fresh(0, step, 1.0) for step in range(50)) and not any(is_fresh(0, step, 0.0) for step in range(50))
    assert [is_fresh(0, step, 0.5) for step in range(64)] != [is_fresh(1, step, 0.5) for step in range(64)]
