"""How far a number may be trusted: the bootstrap over sequences (Efron 1979).

The sequences of a benchmark are drawn anew, with replacement; the interval holds the middle 95 % of the numbers that come out. Two trackers
are compared on the same draws, so what makes a sequence hard for both drops out of their difference.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tracking.metrics import Curve, Rule

DRAWS = 2000


class Interval(NamedTuple):
    """A number and its 95 % interval; NaN of a single sequence, which says nothing of others."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def draws(sequences: int, seed: int = 0) -> np.ndarray:
    """How often each sequence comes in each draw, (DRAWS, S), seeded."""
    return np.random.default_rng(seed).multinomial(sequences, np.full(sequences, 1 / sequences), size=DRAWS)


def interval(rule: Rule, name: str, measures: dict[str, Curve], drawn: np.ndarray) -> Interval:
    """A number of one tracker."""
    return _interval(rule.number(name, measures, np.ones(drawn.shape[1])), rule.number(name, measures, drawn), drawn.shape[1])


def difference(rule: Rule, name: str, one: dict[str, Curve], other: dict[str, Curve], drawn: np.ndarray) -> Interval:
    """A number of one tracker less that of the other, paired by sequence; both of the same sequences in one order."""
    every = np.ones(drawn.shape[1])
    value = rule.number(name, one, every) - rule.number(name, other, every)
    return _interval(value, rule.number(name, one, drawn) - rule.number(name, other, drawn), drawn.shape[1])


def _interval(value: np.ndarray, drawn: np.ndarray, sequences: int) -> Interval:
    known = sequences > 1 and np.isfinite(drawn).any()
    low, high = np.nanpercentile(drawn, (2.5, 97.5)) if known else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))
