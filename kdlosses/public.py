"""What the room offers to the others."""

from __future__ import annotations

from kdlosses.live import LiveTeacher
from kdlosses.needs import Needs
from kdlosses.objectives import Objective, build_objective, build_objectives, needed_targets
from kdlosses.projection import draw_projection
from kdlosses.spec import sizes_of, target_spec
from kdlosses.targets import TARGETS, Sizes, Target, compute, layers_of, round_features, target

__all__ = [
    "TARGETS",
    "LiveTeacher",
    "Needs",
    "Objective",
    "Sizes",
    "Target",
    "build_objective",
    "build_objectives",
    "compute",
    "draw_projection",
    "layers_of",
    "needed_targets",
    "round_features",
    "sizes_of",
    "target",
    "target_spec",
]
