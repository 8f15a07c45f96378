"""Losses of distilled trackers, and the teacher numbers (targets) that they need."""

from __future__ import annotations

from kdlosses.needs import Needs
from kdlosses.objectives import Objective, build_objective
from kdlosses.pairs import Pairs
from kdlosses.projection import draw_projection
from kdlosses.targets import TARGETS, Target, TargetArray, compute, layers_of, table, target

__all__ = [
    "TARGETS",
    "Needs",
    "Objective",
    "Pairs",
    "Target",
    "TargetArray",
    "build_objective",
    "compute",
    "draw_projection",
    "layers_of",
    "table",
    "target",
]
