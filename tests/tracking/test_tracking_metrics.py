"""The metrics: cases worked out by hand, and the GOT-10k toolkit on the same boxes."""

from __future__ import annotations

import numpy as np
import pytest

from tracking.intervals import difference, draws, interval
from tracking.metrics import RULES, Tracked, moved_inside

SIZE = (100, 80)


def tracked(boxes, truth, visible=None, name="a", size=SIZE, kind="otb") -> Tracked:
    boxes, truth = (np.array(rows, np.float64).reshape(-1, 4) for rows in (boxes, truth))
    return Tracked(name, kind, boxes, truth, np.ones(len(truth), bool) if visible is None else np.array(visible), size)


def numbers(rule: str, *sequences: Tracked) -> dict[str, float]:
    """Every number of a rule, in 0 ... 1."""
    chosen = RULES[rule]
    measures, every = chosen.measure(sequences), np.ones(len(sequences))
    return {name: float(chosen.number(name, measures, every)) for name in chosen.numbers}


def wild(seed: int, frames: int = 40, name: str = "a", size=(320, 240)) -> Tracked:
    """A target that moves, partly outside the image, and a tracker that follows it more or less."""
    rng = np.random.default_rng(seed)
    centre = np.cumsum(rng.normal(0, 9, (frames, 2)), axis=0) + rng.uniform(0, 200, 2)
    truth = np.concatenate([centre, rng.uniform(15, 70, (frames, 2))], axis=1)
    boxes = truth + rng.normal(0, 9, (frames, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 3)
    boxes[0] = truth[0]
    return Tracked(name, "got10k", boxes, truth, rng.uniform(size=frames) > 0.2, size)


def test_a_perfect_tracker():
    truth = [[10 + i, 20, 30, 20] for i in range(6)]
    perfect = tracked(truth, truth)
    assert numbers("pytracking", perfect) == pytest.approx({"auc": 20 / 21, "precision": 1, "norm_precision": 1, "sr50": 1, "sr75": 1})
    assert round(100 * numbers("pytracking", perfect)["auc"], 2) == 95.24
    assert numbers("got10k", perfect) == pytest.approx({"ao": 1, "sr50": 1, "sr75": 1, "auc": 20 / 21, "precision": 1, "norm_precision": 1})


def test_a_box_that_stands_still_while_the_target_leaves_it():
    # 20 x 10 targets, 10 pixels further a frame: IoU 1, 1/3, 0, 0; centres 0, 10, 20, 30 pixels or 0, 0.5, 1, 1.5 targets apart
    truth = [[10 * i, 20, 20, 10] for i in range(4)]
    still = tracked([truth[0]] * 4, truth)
    found = numbers("pytracking", still)
    # IoU 1 exceeds 20 of the 21 thresholds, 1/3 the 7 of 0 ... 0.3
    assert found["auc"] == pytest.approx((20 + 7) / (21 * 4))
    assert (found["precision"], found["norm_precision"], found["sr50"], found["sr75"]) == (0.75, 0.25, 0.25, 0.25)
    pooled = numbers("got10k", still)
    assert pooled["ao"] == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert (pooled["sr50"], pooled["sr75"]) == (0, 0)
    # distance 0 is within all 51 thresholds up to 0.5, distance 0.5 within the last alone
    assert pooled["norm_precision"] == pytest.approx((51 + 1) / (51 * 4))


def test_the_first_frame_is_found_and_no_part_of_ao():
    truth = [[10, 10, 20, 20]] * 3
    late = tracked([[60, 60, 20, 20], *truth[1:]], truth)
    assert numbers("pytracking", late)["auc"] == pytest.approx(20 / 21)
    assert numbers("got10k", late)["ao"] == 1
    alone = numbers("got10k", tracked(truth[:1], truth[:1]))
    assert np.isnan([alone["ao"], alone["sr50"]]).all()


def test_frames_without_a_target_count_as_each_rule_says():
    truth = [[10, 10, 20, 20], [10, 10, 20, 20], [0, 0, 0, 0], [10, 10, 20, 20]]
    shown = [True, True, False, True]
    there = numbers("pytracking", tracked([truth[0]] * 4, truth, visible=shown))
    assert there == pytest.approx({"auc": 0.75 * 20 / 21, "precision": 0.75, "norm_precision": 1, "sr50": 0.75, "sr75": 0.75})
    assert numbers("pytracking", tracked([truth[0]] * 4, truth, visible=shown, kind="uav123"))["precision"] == 1
    assert numbers("pytracking", tracked([truth[0]] * 4, truth, visible=shown, kind="lasot"))["norm_precision"] == 0.75
    # a hidden target with a true box: a miss on LaSOT alone
    hidden = [True, True, True, False]
    full = [truth[0]] * 4
    assert numbers("pytracking", tracked(full, full, visible=hidden, kind="lasot"))["sr50"] == 0.75
    assert numbers("pytracking", tracked(full, full, visible=hidden))["sr50"] == 1
    pooled = numbers("got10k", tracked([truth[0]] * 4, truth, visible=shown))
    assert (pooled["ao"], pooled["norm_precision"], pooled["precision"]) == (1, 0.75, 0.75)
    gone = numbers("got10k", tracked(truth, truth, visible=[True, False, False, False]))
    assert np.isnan(gone["ao"])


def test_one_rule_means_over_sequences_the_other_over_frames():
    good, bad = [[10, 10, 20, 20]] * 11, [[60, 60, 10, 10]] * 3
    short = tracked([good[0], *bad[1:]], good[:3], name="short")
    long = tracked(good, good, name="long")
    assert numbers("pytracking", short, long)["sr50"] == pytest.approx((1 / 3 + 1) / 2)
    assert numbers("got10k", short, long)["ao"] == pytest.approx(10 / 12)


def test_a_box_left_of_the_image_is_moved_inside_not_cut():
    # as the toolkit does: (-20, 0, 50, 40) becomes (0, 0, 50, 40), and its IoU with (0, 0, 30, 40) is 0.6
    assert moved_inside(np.array([[-20.0, 0, 50, 40], [90, 70, 50, 40]]), (100, 100)).tolist() == [[0, 0, 50, 40], [90, 70, 10, 30]]
    outside = tracked([[0, 0, 30, 40], [-20, 0, 50, 40]], [[0, 0, 30, 40]] * 2, size=(100, 100))
    assert numbers("got10k", outside)["ao"] == pytest.approx(0.6)


def test_the_got10k_toolkit_gives_the_same_numbers():
    metrics = pytest.importorskip("got10k.utils.metrics", reason="the package got10k is not installed")
    sequences = [wild(seed, frames=20 + 7 * seed, name=str(seed)) for seed in range(5)]
    pooled, curves, distances = [], [], []
    for one in sequences:
        # rect_iou writes into its arguments
        ious = metrics.rect_iou(one.boxes[1:].copy(), one.truth[1:].copy(), bound=one.size)
        pooled.append(ious[one.visible[1:]])
        plain = metrics.rect_iou(one.boxes.copy(), one.truth.copy())
        curves.append((plain[:, None] > np.linspace(0, 1, 21)).mean(0))
        distances.append((metrics.center_error(one.boxes, one.truth)[:, None] <= np.arange(51)).mean(0))
    ious = np.concatenate(pooled)
    found = numbers("got10k", *sequences)
    assert found["ao"] == pytest.approx(ious.mean(), abs=1e-6)
    assert found["sr50"] == pytest.approx((ious > 0.5).mean(), abs=1e-6)
    assert found["sr75"] == pytest.approx((ious > 0.75).mean(), abs=1e-6)
    assert found["auc"] == pytest.approx(np.mean(curves), abs=1e-6)
    assert found["precision"] == pytest.approx(np.mean(distances, axis=0)[20], abs=1e-6)
    succ = RULES["got10k"].measure(sequences)["success"].over(np.ones(5))
    assert succ == pytest.approx((ious[:, None] > np.linspace(0, 1, 101)).mean(0), abs=1e-6)


def test_intervals_hold_the_number_and_pairing_narrows_a_difference():
    rng = np.random.default_rng(3)
    ease, rule = rng.uniform(2, 40, 30), RULES["got10k"]

    def trackers(extra: float) -> list[Tracked]:
        """Targets of 40 pixels, missed by `ease` pixels and by `extra` more."""
        truth = np.tile([20.0, 20, 40, 40], (5, 1))
        return [tracked(truth + np.array([[0, 0, 0, 0], *[[miss + extra, 0, 0, 0]] * 4]), truth, size=(400, 400)) for miss in ease]

    near, far = rule.measure(trackers(0)), rule.measure(trackers(1.5))
    drawn = draws(30)
    one, other, apart = (interval(rule, "ao", near, drawn), interval(rule, "ao", far, drawn), difference(rule, "ao", near, far, drawn))
    assert one.low < one.value < one.high
    assert one.low < other.high  # alone they cannot be told apart
    assert apart.value == pytest.approx(one.value - other.value)
    assert apart.excludes_zero
    assert apart.high - apart.low < 0.2 * (one.high - one.low)
    assert not difference(rule, "ao", near, near, drawn).excludes_zero


def test_an_interval_is_that_of_draws_made_one_by_one():
    sequences = [wild(seed, name=str(seed)) for seed in range(6)]
    rule = RULES["pytracking"]
    each = np.array([numbers("pytracking", one)["auc"] for one in sequences])
    rng = np.random.default_rng(1)
    plain = np.array([each[rng.integers(0, 6, 6)].mean() for _ in range(4000)])
    found = interval(rule, "auc", rule.measure(sequences), draws(6))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(plain, (2.5, 97.5))), abs=0.02)


def test_one_sequence_alone_has_no_interval():
    alone = [wild(0)]
    found = interval(RULES["got10k"], "ao", RULES["got10k"].measure(alone), draws(1))
    assert np.isfinite(found.value) and np.isnan([found.low, found.high]).all()
    assert not found.excludes_zero
