"""Boxes and counter-based numbers against plain Python twins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from configs.errors import RunError
from configs.schema import Pairs
from models import boxes


def plain_iou(a: list[float], b: list[float]) -> float:
    x0, y0 = max(a[0], b[0]), max(a[1], b[1])
    x1, y1 = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    inter = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - inter
    return inter / union if union > 0 else 0.0


def plain_proposals(box: list[float], seed: int, pair: int, stream0: int, pairs: Pairs) -> list[list[float]]:
    """The text of the docstring, one number at a time."""
    n, found = pairs.proposals, []
    picked = boxes.counter_uniform(seed, stream0, pair, 1, n)[0]
    for j in range(n):
        sigma = pairs.proposal_sigmas[int(picked[j] * len(pairs.proposal_sigmas))] * math.sqrt(box[2] * box[3])
        for k in range(100):
            g = boxes.counter_normal(seed, stream0 + 1 + 2 * k, pair, 1, 4 * n)[0][4 * j : 4 * j + 4]
            u = boxes.counter_uniform(seed, stream0 + 2 + 2 * k, pair, 1, 4 * n)[0][4 * j : 4 * j + 4]
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
        found.append(out)
    return found


def some_boxes(count: int, low: float = 2.0, high: float = 120.0) -> np.ndarray:
    u = boxes.counter_uniform(9, 9, 0, count, 4)
    return np.concatenate([20 + 150 * u[:, :2], low + (high - low) * u[:, 2:]], axis=1)


@pytest.mark.parametrize("draw", [boxes.counter_uniform, boxes.counter_normal])
@pytest.mark.parametrize("numbers", [1, 3, 4, 7, 64])
def test_any_split_gives_the_same_rows(draw, numbers):  # type: ignore[no-untyped-def]
    whole = draw(5, 3, 10, 40, numbers)
    for cuts in ([1], [13, 14, 39], list(range(1, 40))):
        edges = [0, *cuts, 40]
        parts = [draw(5, 3, 10 + a, b - a, numbers) for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.float64 and whole.shape == (40, numbers)


def test_seed_stream_and_row_all_change_the_numbers():
    base = boxes.counter_uniform(1, 2, 3, 1, 8)
    for other in ((2, 2, 3), (1, 3, 3), (2, 1, 3), (1, 2, 4)):
        assert not np.isin(boxes.counter_uniform(*other, 1, 8), base).any()


def test_numbers_are_pinned():
    """A cache is built over years of library versions: these words may never change."""
    raw = np.random.Philox(key=np.array([7, 1], np.uint64)).random_raw(4)
    assert np.array_equal(boxes.counter_uniform(7, 1, 0, 1, 4)[0], [int(word >> 11) / 2**53 for word in raw.tolist()])
    assert np.array_equal(boxes.counter_uniform(7, 1, 0, 1, 4)[0] * 2**53, PINNED)


PINNED = [7948554575802349, 3324001813059877, 4657349766523614, 2988496395884266]


def test_high_rows_and_seeds():
    assert boxes.counter_uniform(2**63 - 1, 2**64 - 1, 2**63, 2, 5).shape == (2, 5)
    far = boxes.counter_uniform(0, 0, 2**64 - 1, 2, 4)
    assert np.array_equal(far[1], boxes.counter_uniform(0, 0, 2**64, 1, 4)[0])


def test_uniform_distribution():
    x = np.sort(boxes.counter_uniform(1, 2, 0, 20_000, 3).ravel())
    assert x[0] >= 0 and x[-1] < 1
    assert np.abs(x - (np.arange(len(x)) + 0.5) / len(x)).max() < 1.63 / math.sqrt(len(x))  # Kolmogorov-Smirnov, 1 %


def test_normal_distribution():
    x = np.sort(boxes.counter_normal(1, 2, 0, 20_000, 3).ravel())
    expected = 0.5 * (1 + torch.erf(torch.from_numpy(x) / math.sqrt(2))).numpy()
    assert np.abs(expected - (np.arange(len(x)) + 0.5) / len(x)).max() < 1.63 / math.sqrt(len(x))
    assert np.isfinite(x).all()
    corr = np.corrcoef(boxes.counter_normal(1, 2, 0, 20_000, 4).T) - np.eye(4)
    assert np.abs(corr).max() < 4 / math.sqrt(20_000)


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
    pairs = Pairs(proposals=5)
    test_box = some_boxes(40, low, high)
    got = boxes.draw_proposals(test_box, 11, 1000, 70, pairs)
    want = np.array([plain_proposals(box, 11, 1000 + i, 70, pairs) for i, box in enumerate(test_box.tolist())])
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert got.dtype == np.float32 and got.shape == (40, 5, 4)


def test_a_pair_does_not_depend_on_its_neighbours():
    pairs = Pairs()
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
    pairs = Pairs(proposal_sigmas=(0.1,))
    test_box = np.tile([100.0, 90.0, 60.0, 40.0], (4000, 1))
    got = boxes.draw_proposals(test_box, 1, 0, 0, pairs).astype(np.float64)
    assert (boxes.box_iou(got, test_box[:, None]) > pairs.proposal_min_iou).all()
    assert np.array_equal(got, np.rint(got))
    scale = 0.1 * math.sqrt(60 * 40)
    for values, mean in ((got[..., 2], 60), (got[..., 3], 40), (got[..., 0] + got[..., 2] / 2, 130), (got[..., 1] + got[..., 3] / 2, 110)):
        assert abs(values.mean() - mean) < 5 * scale / math.sqrt(values.size) + 0.01
        assert abs(values.std() / scale - 1) < 0.02


def test_every_sigma_is_picked_equally_often():
    pairs = Pairs(proposal_sigmas=(1e-9, 0.05))
    test_box = np.tile([100.0, 90.0, 100.0, 100.0], (2000, 1))
    got = boxes.draw_proposals(test_box, 1, 0, 0, pairs)
    still = (got == test_box[:, None].astype(np.float32)).all(axis=-1).mean()
    assert abs(still - 0.5) < 0.015


def test_small_sides_are_replaced_and_stay_positive():
    test_box = np.tile([100.0, 90.0, 3.0, 90.0], (500, 1))
    got = boxes.draw_proposals(test_box, 1, 0, 0, Pairs())
    replaced = got[..., 2][got[..., 2] <= 1.5]
    assert replaced.size > 100 and replaced.min() >= 0.15 * 3 - 1e-6
    assert (got[..., 2:] > 0).all()


def test_after_a_hundred_tries_the_last_one_is_kept():
    pairs = Pairs(proposal_min_iou=0.9999)
    test_box = np.array([[10.5, 10.5, 7.5, 7.5]])
    got = boxes.draw_proposals(test_box, 1, 0, 0, pairs)
    assert (boxes.box_iou(got.astype(np.float64), test_box[:, None]) <= 0.9999).all()
    want = np.array(plain_proposals(test_box[0].tolist(), 1, 0, 0, pairs))
    np.testing.assert_allclose(got[0], want, rtol=1e-6)


@pytest.mark.parametrize("box", [[1.0, 1.0, 0.0, 5.0], [1.0, float("nan"), 4.0, 5.0], [1.0, 1.0, 5.0, -1.0]])
def test_a_bad_box_is_named(box):
    with pytest.raises(RunError, match=r"positive sides, found .* at pair 41"):
        boxes.draw_proposals(np.array([[1.0, 1.0, 5.0, 5.0], box]), 1, 40, 0, Pairs())
