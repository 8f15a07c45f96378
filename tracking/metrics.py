"""How well boxes follow the truth, by the rules of two toolkits.

Letters: S sequences, n frames of one, T thresholds. Boxes (x, y, w, h), 0-based, frame pixels, float64. Source of the rules: what the
public code of PyTracking and of the GOT-10k toolkit (arXiv:1810.11981) does. They give different numbers for the same boxes, so a number
always comes with its rule.

pytracking (OTB, LaSOT, UAV123 as most papers report them; the CFKD thesis too)
    plain IoU; success: share of frames with IoU > t, 21 thresholds 0 ... 1, so a perfect tracker has 20 / 21 = 95.24; precision: centres
    at most 20 pixels apart; normalised precision: at most 0.2 target sizes. The first frame counts as found. All frames count: one
    without a true box (LaSOT: or with a hidden target) is a miss of success and precision (UAV123: a hit of precision) and a hit of
    normalised precision (LaSOT: a miss). A curve is the mean of those of the sequences.
got10k
    ao, sr50, sr75: both boxes are moved and cut into the image, frames are those with a visible target but the first, of all sequences
    together; success has 101 thresholds. auc (21 thresholds) and precision: its OTB rule, all frames, mean over sequences; normalised
    precision: the mean over 51 thresholds 0 ... 0.5. A frame without a true box is a miss of these three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pairs.annotation import with_area
from pairs.boxes import box_iou

PIXELS = np.arange(51.0)
"""Thresholds of precision."""
SIZES = np.linspace(0, 0.5, 51)
"""Thresholds of normalised precision, in target sizes."""


@dataclass(frozen=True)
class Tracked:
    """One sequence and the boxes that a tracker has answered; its first box is the one that it was given.

    kind: of its data set; boxes, truth (n, 4); visible (n,) bool: the target is to be seen; size: (w, h) of the frames.
    """

    name: str
    kind: str
    boxes: np.ndarray
    truth: np.ndarray
    visible: np.ndarray
    size: tuple[int, int]


class Curve(NamedTuple):
    """A measure, sequence by sequence: over any of them it is the sum of `totals` over the sum of `weights`."""

    totals: np.ndarray
    """(S, T)"""
    weights: np.ndarray
    """(S,)"""

    def over(self, counts: np.ndarray) -> np.ndarray:
        """The curve (..., T) of a set in which sequence s is counts[..., s] times; NaN where nothing has weight."""
        total, weight = counts @ self.totals, (counts @ self.weights)[..., None]
        return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


@dataclass(frozen=True)
class Rule:
    """How a toolkit counts.

    curves: one sequence -> measure -> (values (T,), weight). numbers: name of a number -> (its measure, from the curve (..., T) to it).
    """

    curves: Callable[[Tracked], dict[str, tuple[np.ndarray, float]]]
    numbers: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]

    def measure(self, sequences: Sequence[Tracked]) -> dict[str, Curve]:
        """Every measure of S sequences."""
        rows = [self.curves(sequence) for sequence in sequences]
        weights = {name: np.array([row[name][1] for row in rows]) for name in rows[0]}
        return {name: Curve(np.stack([row[name][0] * row[name][1] for row in rows]), weight) for name, weight in weights.items()}

    def number(self, name: str, measures: dict[str, Curve], counts: np.ndarray) -> np.ndarray:
        """A number, in 0 ... 1, of sets of sequences: counts (..., S) -> (...)."""
        measure, of_curve = self.numbers[name]
        return of_curve(measures[measure].over(counts))


def moved_inside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) as the GOT-10k toolkit bounds them by a (w, h) image: one that starts left of or above it is moved, not cut."""
    corner = np.clip(boxes[:, :2], 0, size)
    return np.concatenate([corner, np.clip(boxes[:, 2:], 0, np.asarray(size) - corner)], axis=1)


def centre_distance(boxes: np.ndarray, truth: np.ndarray, unit: np.ndarray | float = 1.0) -> np.ndarray:
    """Distance (n,) of the centres of boxes (n, 4); unit: (n, 2), what a length on each axis is measured in."""
    apart = (boxes[:, :2] + boxes[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2) / unit
    return np.asarray(np.hypot(apart[:, 0], apart[:, 1]))


def success(iou: np.ndarray, thresholds: int) -> np.ndarray:
    """Share of frames (n,) with an IoU above each of the thresholds 0 ... 1."""
    # rounding may leave a little more than 1, which would exceed the last threshold
    return np.asarray((np.minimum(iou, 1)[:, None] > np.linspace(0, 1, thresholds)).mean(axis=0))


def within(distance: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of frames (n,) with at most each of the distances."""
    return np.asarray((distance[:, None] <= thresholds).mean(axis=0))


def _errors(tracked: Tracked, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU, distance in pixels and in sizes of the target of all frames, the first one found; valid (n,): the others count as misses."""
    boxes, truth = tracked.boxes.copy(), tracked.truth
    boxes[0] = truth[0]
    unit = np.where(valid[:, None], truth[:, 2:], 1)
    pixels, sizes = (np.where(valid, centre_distance(boxes, truth, by), np.inf) for by in (1.0, unit))
    return np.where(valid, box_iou(boxes, truth), -1), pixels, sizes


def _pytracking(tracked: Tracked) -> dict[str, tuple[np.ndarray, float]]:
    lasot = tracked.kind == "lasot"
    valid = with_area(tracked.truth)
    iou, pixels, sizes = _errors(tracked, valid & tracked.visible if lasot else valid)
    if tracked.kind == "uav123":
        pixels[~valid] = -1
    sizes[~valid & tracked.visible if lasot else ~valid] = -1
    return {"success": (success(iou, 21), 1), "precision": (within(pixels, PIXELS), 1), "norm_precision": (within(sizes, SIZES), 1)}


def _got10k(tracked: Tracked) -> dict[str, tuple[np.ndarray, float]]:
    iou, pixels, sizes = _errors(tracked, with_area(tracked.truth))
    one_pass = {
        "otb_success": (success(iou, 21), 1.0),
        "precision": (within(pixels, PIXELS), 1.0),
        "norm_precision": (within(sizes, SIZES), 1.0),
    }
    rows = tracked.visible & (np.arange(len(tracked.truth)) > 0)
    count = int(rows.sum())
    if not count:
        return one_pass | {"success": (np.zeros(101), 0), "overlap": (np.zeros(1), 0), "rates": (np.zeros(2), 0)}
    iou = box_iou(moved_inside(tracked.boxes[rows], tracked.size), moved_inside(tracked.truth[rows], tracked.size))
    rates = (iou[:, None] > np.array([0.5, 0.75])).mean(axis=0)
    return one_pass | {"success": (success(iou, 101), count), "overlap": (iou.mean(keepdims=True), count), "rates": (rates, count)}


def _mean(curve: np.ndarray) -> np.ndarray:
    return np.asarray(curve.mean(axis=-1))


def _at(place: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda curve: np.asarray(curve[..., place])


RULES: dict[str, Rule] = {
    "pytracking": Rule(
        _pytracking,
        {
            "auc": ("success", _mean),
            "precision": ("precision", _at(20)),
            "norm_precision": ("norm_precision", _at(20)),
            "sr50": ("success", _at(10)),
            "sr75": ("success", _at(15)),
        },
    ),
    "got10k": Rule(
        _got10k,
        {
            "ao": ("overlap", _at(0)),
            "sr50": ("rates", _at(0)),
            "sr75": ("rates", _at(1)),
            "auc": ("otb_success", _mean),
            "precision": ("precision", _at(20)),
            "norm_precision": ("norm_precision", _mean),
        },
    ),
}
TITLES = {
    "auc": "AUC",
    "precision": "P",
    "norm_precision": "NP",
    "ao": "AO",
    "sr50": "SR0.5",
    "sr75": "SR0.75",
}
