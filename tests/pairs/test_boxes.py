"""Boxes against plain Python twins: overlap, proposals, mirroring."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
import torch

from configs.errors import RunError
from configs.schema import ImageConfig, PairsConfig
from pairs import boxes, geometry, streams
from pairs.decode import Crops, DecoderOptions, make_decoder
from pairs.photometry import Photometry


def plain_iou(a: list[float], b: list[float]) -> float:
    x0, y0 = max(a[0], b[0]), max(a[1], b[1])
    x1, y1 = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    inter = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - inter
    return inter / union if union > 0 else 0.0


def plain_proposals(box: list[float], seed: int, pair: int, stream0: int, pairs: PairsConfig) -> list[list[float]]:
    """The text of the docstring, one number at a time."""
    n, proposals = pairs.proposals, []
    picked = streams.counter_uniform(seed, stream0, pair, 1, n)[0]
    for j in range(n):
        sigma = pairs.proposal_sigmas[int(picked[j] * len(pairs.proposal_sigmas))] * math.sqrt(box[2] * box[3])
        for k in range(100):
            g = streams.counter_normal(seed, stream0 + 1 + 2 * k, pair, 1, 4 * n)[0][4 * j : 4 * j + 4]
            u = streams.counter_uniform(seed, stream0 + 2 + 2 * k, pair, 1, 4 * n)[0][4 * j : 4 * j + 4]
            cx, cy = box[0] + 0.5 * box[2] + g[0] * sigma, box[1] + 0.5 * box[3] + g[1] * sigma
            w, h = box[2] + g[2] * sigma, box[3] + g[3] * sigma
            w = box[2] * (0.15 + 0.35 * u[0]) if w <= 1 else w
            h = box[3] * (0.15 + 0.35 * u[1]) if h <= 1 else h
            out = [float(round(v)) for v in (cx - 0.5 * w, cy - 0.5 * h, w, h)]
            out[2] = box[2] * (0.15 + 0.35 * u[2]) if out[2] <= 1 else out[2]
            out[3] = box[3] * (0.15 + 0.35 * u[3]) if out[3] <= 1 else out[3]
            if plain_iou(out, box) > pairs.proposal_min_iou:
                break
            sigma *= 0.9
        proposals.append(out)
    return proposals


def some_boxes(count: int, low: float = 2.0, high: float = 120.0) -> np.ndarray:
    u = streams.counter_uniform(9, 9, 0, count, 4)
    return np.concatenate([20 + 150 * u[:, :2], low + (high - low) * u[:, 2:]], axis=1)


def test_iou_matches_the_plain_twin_in_numpy_and_torch():
    a, b = some_boxes(300), some_boxes(301)[1:] * [1, 1, 0.7, 1.2]
    b[:20] = a[:20]
    a[20:25, 2] = 0.0
    b[20:25] = a[20:25]
    want = np.array([plain_iou(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    assert (want > 0.1).sum() > 20 and (want == 0).sum() > 20
    np.testing.assert_allclose(boxes.box_iou(a, b), want, rtol=1e-12)
    np.testing.assert_allclose(boxes.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(boxes.box_iou(a[:, None], b[None, :7])[:7, :7].diagonal(), want[:7], rtol=1e-12)


def test_iou_gradient():
    a = torch.tensor([[10.0, 12.0, 30.0, 20.0], [0.0, 0.0, 5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[15.0, 10.0, 30.0, 25.0], [50.0, 50.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: boxes.box_iou(x, b[:1]), (a[:1].detach().requires_grad_(),))
    boxes.box_iou(a, b).sum().backward()
    assert a.grad is not None and torch.isfinite(a.grad).all() and a.grad[0].abs().sum() > 0


@pytest.mark.parametrize("low, high", [(2.0, 120.0), (0.5, 6.0)])
def test_proposals_match_the_plain_twin(low, high):
    pairs = PairsConfig(proposals=5)
    test_box = some_boxes(40, low, high)
    got = boxes.draw_proposals(test_box, 11, 1000, 70, pairs)
    want = np.array([plain_proposals(box, 11, 1000 + i, 70, pairs) for i, box in enumerate(test_box.tolist())])
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert got.dtype == np.float32 and got.shape == (40, 5, 4)


def test_a_pair_does_not_depend_on_its_neighbours():
    pairs = PairsConfig()
    test_box = some_boxes(60, 1.0, 40.0)
    whole = boxes.draw_proposals(test_box, 3, 5, 0, pairs)
    for edges in ([0, 1, 60], [0, 17, 30, 31, 60], list(range(61))):
        parts = [boxes.draw_proposals(test_box[a:b], 3, 5 + a, 0, pairs) for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate(parts), whole)
    picked = np.array([0, 3, 4, 5, 40, 59])
    assert np.array_equal(boxes.draw_proposals(test_box[picked], 3, 5 + picked, 0, pairs), whole[picked])
    assert boxes.draw_proposals(test_box[:0], 3, 5, 0, pairs).shape == (0, pairs.proposals, 4)
    others = test_box.copy()
    others[:30] = [100, 100, 1.2, 1.2]
    assert np.array_equal(boxes.draw_proposals(others, 3, 5, 0, pairs)[30:], whole[30:])


def test_proposals_are_accepted_integers_with_the_right_spread():
    pairs = PairsConfig(proposal_sigmas=(0.1,))
    test_box = np.tile([100.0, 90.0, 60.0, 40.0], (4000, 1))
    got = boxes.draw_proposals(test_box, 1, 0, 0, pairs).astype(np.float64)
    assert (boxes.box_iou(got, test_box[:, None]) > pairs.proposal_min_iou).all()
    assert np.array_equal(got, np.rint(got))
    scale = 0.1 * math.sqrt(60 * 40)
    for values, mean in ((got[..., 2], 60), (got[..., 3], 40), (got[..., 0] + got[..., 2] / 2, 130), (got[..., 1] + got[..., 3] / 2, 110)):
        assert abs(values.mean() - mean) < 5 * scale / math.sqrt(values.size) + 0.01
        assert abs(values.std() / scale - 1) < 0.02


def test_every_sigma_is_picked_equally_often():
    pairs = PairsConfig(proposal_sigmas=(1e-9, 0.05))
    test_box = np.tile([100.0, 90.0, 100.0, 100.0], (2000, 1))
    got = boxes.draw_proposals(test_box, 1, 0, 0, pairs)
    still = (got == test_box[:, None].astype(np.float32)).all(axis=-1).mean()
    assert abs(still - 0.5) < 0.015


def test_small_sides_are_replaced_and_stay_positive():
    test_box = np.tile([100.0, 90.0, 3.0, 90.0], (500, 1))
    got = boxes.draw_proposals(test_box, 1, 0, 0, PairsConfig())
    replaced = got[..., 2][got[..., 2] <= 1.5]
    assert replaced.size > 100 and replaced.min() >= 0.15 * 3 - 1e-6
    assert (got[..., 2:] > 0).all()


def test_after_a_hundred_tries_the_last_one_is_kept():
    pairs = PairsConfig(proposal_min_iou=0.9999)
    test_box = np.array([[10.5, 10.5, 7.5, 7.5]])
    got = boxes.draw_proposals(test_box, 1, 0, 0, pairs)
    assert (boxes.box_iou(got.astype(np.float64), test_box[:, None]) <= 0.9999).all()
    want = np.array(plain_proposals(test_box[0].tolist(), 1, 0, 0, pairs))
    np.testing.assert_allclose(got[0], want, rtol=1e-6)


@pytest.mark.parametrize("box", [[1.0, 1.0, 0.0, 5.0], [1.0, float("nan"), 4.0, 5.0], [1.0, 1.0, 5.0, -1.0]])
def test_a_bad_box_is_named(box):
    with pytest.raises(RunError, match=r"positive sides, found .* at pair 41"):
        boxes.draw_proposals(np.array([[1.0, 1.0, 5.0, 5.0], box]), 1, 40, 0, PairsConfig())


@pytest.mark.parametrize("first, sides", [((7, 30), (20, 11)), ((0, 0), (96, 96)), ((80, 5), (16, 8)), ((0, 40), (14, 20))])
def test_a_box_moves_with_its_pixels(first, sides):
    """Pixel j is centred at j: a blob of the pixels x ... x + w - 1 fills the box that begins at x - 0.5."""
    (x, y), (w, h) = first, sides
    image = np.zeros((96, 96, 3), np.uint8)
    image[y : y + h, x : x + w] = 255
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].ravel()
    look = Photometry(np.ones((1, 2), np.float32), np.zeros(1, bool), np.ones(1, bool), np.zeros((1, 2), np.float32))
    decoder = make_decoder("torch", DecoderOptions(1, (96, 96), torch.device("cpu")))
    (ref, _), _ = decoder.start(iter([(Crops([jpeg], [jpeg], look), None)])).batch()
    decoder.close()
    box = np.array([[x - 0.5, y - 0.5, w, h]])
    mirrored = boxes.flip_boxes(box, np.array([True]), 96)[0]
    left, top = (int(value) for value in mirrored[:2] + 0.5)
    expected = torch.zeros(96, 96, dtype=torch.bool)
    expected[top : top + h, left : left + w] = True
    assert torch.equal(ref[0, 0] > 0, expected)


def test_the_centre_of_a_mirrored_blob_is_the_mirrored_centre():
    """Blobs at every place of a pixel: the centroid of what is seen, mirrored, against the centre of the mirrored box."""
    rows = some_boxes(200, 10.0, 40.0) * [0.4, 0.4, 1, 1]
    x, _ = np.meshgrid(np.arange(144), np.arange(144))
    offsets = []
    for box in rows:
        centre = box[:2] + box[2:] / 2
        weight = np.exp(-(((np.arange(144) - centre[0]) / 4) ** 2))[None] * np.exp(-(((np.arange(144) - centre[1]) / 4) ** 2))[:, None]
        seen = (weight[:, ::-1] * x).sum() / weight.sum()
        mirrored = boxes.flip_boxes(box[None], np.array([True]), 144)[0]
        offsets.append(mirrored[0] + mirrored[2] / 2 - seen)
    assert abs(np.mean(offsets)) < 0.02


def test_only_flipped_boxes_move_and_the_input_stays():
    before = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    given = before.copy()
    moved = boxes.flip_boxes(given, np.array([False, True, False]), 96)
    np.testing.assert_array_equal(given, before)
    np.testing.assert_array_equal(moved[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(moved[1, :, 0], 95 - before[1, :, 0] - before[1, :, 2])
    np.testing.assert_array_equal(moved[1, :, 1:], before[1, :, 1:])
    np.testing.assert_array_equal(boxes.flip_boxes(moved, np.array([False, True, False]), 96), before)


def test_the_side_of_a_target_in_cells():
    published = [geometry.target_cells(ImageConfig(), stride) for stride in (2, 4, 8, 16)]
    assert published == [29, 15, 9, 5]
    # the demo's crop, and today's trackers: half the factor at the same size shows the target twice as large
    assert [geometry.target_cells(ImageConfig(size=144), stride) for stride in (2, 4, 8, 16)] == [15, 9, 5, 3]
    assert [geometry.target_cells(ImageConfig(size=256, area_factor=4), stride) for stride in (2, 4, 8, 16)] == [33, 17, 9, 5]
    assert geometry.target_cells(ImageConfig(size=288, area_factor=2.5), 2) == 59
