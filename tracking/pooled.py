"""Runs of one name together: the same training or tracker with other seeds is one tracker, the mean of its runs.

Run NAME-seed2 belongs to NAME, and so does NAME-seed2-track1, the same network tracked with another seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tracking.intervals import Interval, difference, draws, interval
from tracking.metrics import RULES, Curve
from tracking.scores import COLUMNS, Score, Scores, Speed

RUN = re.compile(r"(-seed\d+)?(-track\d+)?$")
Pairs = dict[tuple[str, str], dict[tuple[str, str], Interval]]
"""(one, other) -> (rule, number) -> the number of one less that of other"""


def name_of(tracker: str) -> str:
    """The name that a run's tracker goes by with other seeds."""
    return RUN.sub("", tracker) or tracker


def pooled(scores: Scores) -> tuple[Scores, dict[str, int]]:
    """One tracker for each name, in order, and how many runs it has. Its curves are the means of theirs, sequence by sequence."""
    runs: dict[str, list[Score]] = {}
    for one in scores.trackers:
        runs.setdefault(name_of(one.name), []).append(one)
    drawn = draws(len(scores.sequences))
    return replace(scores, trackers=tuple(_mean(name, of_one, drawn) for name, of_one in runs.items())), {
        name: len(of_one) for name, of_one in runs.items()
    }


def _mean(name: str, runs: Sequence[Score], drawn: np.ndarray) -> Score:
    measures = {
        rule: {
            measure: Curve(*(np.sum(parts, axis=0) for parts in zip(*(run.measures[rule][measure] for run in runs), strict=True)))
            for measure in runs[0].measures[rule]
        }
        for rule in RULES
    }
    numbers = {(rule, number): interval(RULES[rule], number, measures[rule], drawn) for rule in RULES for number in RULES[rule].numbers}
    speed = Speed(*(float(np.median(values)) for values in zip(*(run.speed for run in runs), strict=True)))
    skipped, lost = sum(run.skipped for run in runs), float(np.mean([run.lost for run in runs]))
    return Score(name, measures, numbers, np.mean([run.each for run in runs], axis=0), speed, skipped, lost)


def pairs(scores: Scores) -> Pairs:
    """Every tracker against every other one, paired by sequence."""
    drawn = draws(len(scores.sequences))
    return {
        (one.name, other.name): {
            (rule, number): difference(RULES[rule], number, one.measures[rule], other.measures[rule], drawn) for rule, number in COLUMNS
        }
        for one in scores.trackers
        for other in scores.trackers
        if one is not other
    }
