"""The networks that are trained: built from the seed, started from weights where wanted, frozen by phase, given to Adam by part.

Letters: B pairs, N proposals, S side of a crop (of the ref or of the test image).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import models
from configs import Config, PhaseConfig
from kdlosses import Objective
from models import Outputs
from pairs.batch import Boxes


class Students(nn.Module):
    """One tracker, or the two of TSsKD (dull, intelligent), behind one forward pass."""

    def __init__(self, trackers: Iterable[models.Tracker]) -> None:
        super().__init__()
        self.trackers = nn.ModuleList(trackers)

    def forward(self, ref: Tensor, test: Tensor, boxes: Boxes, layers: tuple[str, ...]) -> tuple[Outputs, ...]:
        """ref, test (B, 3, S, S) normalised -> the outputs of each tracker."""
        return tuple(tracker(ref, test, boxes.ref_box, boxes.proposals, layers) for tracker in self.trackers)

    def freeze(self, parts: Iterable[str]) -> None:
        """See `models.Tracker.freeze`."""
        parts = tuple(parts)
        for tracker in self.trackers:
            tracker.freeze(parts)  # type: ignore[operator]


class Step(nn.Module):
    """Students and objective as one module, so that gradients of both are averaged over processes. Returns weighted named terms."""

    def __init__(self, students: Students, objective: Objective, precision: str, device: torch.device) -> None:
        super().__init__()
        self.students, self.objective = students, objective
        self.layers = objective.needs.student_layers
        self.autocast = precision == "bfloat16"
        self.device_type = device.type

    def forward(self, ref: Tensor, test: Tensor, boxes: Boxes, targets: dict[str, Tensor], epoch: int) -> tuple[dict[str, Tensor], Any]:
        """The terms, and the outputs they were computed from (detached predictions for measuring)."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.autocast):
            outputs = self.students(ref, test, boxes, self.layers)
        terms = self.objective(outputs, targets, boxes, epoch)
        return terms, tuple(output.prediction.detach().float() for output in outputs)


def build_students(config: Config, anew: bool = True) -> tuple[Students, list[str]]:
    """The students of a configuration on the CPU, the same for the same train.seed, and lines on the weights they start from.

    anew: False where a checkpoint gives their weights, so that the files they started from need not be there.
    """
    torch.manual_seed(config.train.seed)
    trackers, notes = [], []
    for section in (config.student, config.second_student):
        if section is not None:
            tracker = models.build(section.architecture)
            if anew and section.weights is not None:
                notes.append(f"{section.architecture} starts from {models.start_from(tracker, section.weights)}")
            trackers.append(tracker)
    return Students(trackers), notes


def parameter_groups(students: Students, objective: Objective, config: Config) -> list[dict[str, Any]]:
    """Adam's groups by name (backbone, head, projection), only of parameters that are trained; empty groups are left out."""
    rate = config.train.lr
    groups = [
        {
            "name": part,
            "lr": (config.train.backbone_lr or rate) if part == "backbone" else rate,
            "params": [
                parameter
                for tracker in students.trackers
                for parameter in tracker.part(part).parameters()  # type: ignore[operator]
                if parameter.requires_grad
            ],
        }
        for part in models.PARTS
    ]
    groups.append({"name": "projection", "lr": rate, "params": [matrix for matrix in objective.parameters() if matrix.requires_grad]})
    return [group for group in groups if group["params"]]


def leaves_some_unused(phase: PhaseConfig, objective: Objective) -> bool:
    """Whether trained parameters may get no gradient: where no term looks at the prediction, the head and what lies above the features."""
    looks_at_features_only = all(needs.student_layers for needs in objective.per_term.values())
    reaches_the_last = models.LAYERS[-1] in objective.needs.student_layers
    return looks_at_features_only and ("head" not in phase.freeze or not reaches_the_last)
