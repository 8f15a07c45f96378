"""The objective of a run: the terms that a setting turns on, each computed, weighted and returned by name; the loop only sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from configs import schema
from configs.errors import RequestError, RunError
from kdlosses.adaptive_hard import AdaptiveHard
from kdlosses.correlation_filter import CorrelationFilter
from kdlosses.fidelity import Fidelity
from kdlosses.ground_truth import GroundTruth
from kdlosses.mutual_students import MutualStudents
from kdlosses.needs import Needs, Networks, merge
from kdlosses.pairs import Pairs
from kdlosses.projected_fidelity import ProjectedFidelity
from kdlosses.projection import Projection
from kdlosses.target_response import TargetResponse
from kdlosses.targets import TARGETS, by_layer
from kdlosses.teacher_soft import TeacherSoft
from kdlosses.tracking import Tracking
from models import LAYERS, Outputs

MUTUAL = "mutual_students"
STUDENTS = ("dull", "intelligent")
MODULES: dict[str, Callable[[Any, Networks], Any]] = {
    "ground_truth": GroundTruth,
    "teacher_soft": TeacherSoft,
    "adaptive_hard": AdaptiveHard,
    "fidelity": Fidelity,
    "projected_fidelity": ProjectedFidelity,
    "correlation_filter": CorrelationFilter,
    "target_response": TargetResponse,
    "tracking": Tracking,
    MUTUAL: MutualStudents,
}


class Objective(nn.Module):
    """The weighted terms of a setting. Build it with `build_objective`.

    per_term: term name (configs.schema.Losses) -> Needs; needs: all of them together. target_identity: target -> what its numbers depend
    on beside the teacher (the projection's seed and the student's channels). A trained projection is the only parameter with requires_grad.
    """

    def __init__(self, losses: schema.Losses, students: tuple[Networks, ...]) -> None:
        super().__init__()
        active = losses.active()
        mutual = active.pop(MUTUAL, None)
        self.weights = {name: term.weight for name, term in losses.active().items()}
        self.terms: list[dict[str, Any]] = [{name: MODULES[name](term, networks) for name, term in active.items()} for networks in students]
        self.mutual = MutualStudents(mutual, students[0]) if isinstance(mutual, schema.MutualStudents) else None
        # registers the modules; the plain dicts above keep their types
        self.students = nn.ModuleList(nn.ModuleDict(terms) for terms in self.terms)
        self.per_term: dict[str, Needs] = {name: module.needs for name, module in self.terms[0].items()}
        if self.mutual is not None:
            self.per_term[MUTUAL] = self.mutual.needs
        self.needs = merge(self.per_term.values(), LAYERS, TARGETS)
        self.target_identity: dict[str, dict[str, Any]] = {}
        if losses.projected_fidelity is not None:
            for name in self.needs.targets:
                if TARGETS[name].projected:
                    channels = {layer: students[0].student_channels[layer] for layer in TARGETS[name].layers}
                    self.target_identity[name] = {"seed": losses.projected_fidelity.seed, "student_channels": channels}

    @property
    def projection(self) -> dict[str, Tensor] | None:
        """layer -> P of a fixed projection: what `targets.compute` takes and precompute stores as constants; else None."""
        for module in self._fixed_projections():
            return {layer: matrix.detach() for layer, matrix in module.matrices.items()}
        return None

    def use_projection(self, projection: Projection) -> None:
        """Take the P that cached targets were made with (their constants); RequestError where it is of another shape."""
        for module in self._fixed_projections():
            module.use(projection)

    def _fixed_projections(self) -> list[ProjectedFidelity]:
        modules = (terms.get("projected_fidelity") for terms in self.terms)
        return [module for module in modules if isinstance(module, ProjectedFidelity) and not module.trained]

    def forward(
        self, outputs: Outputs | tuple[Outputs, Outputs], targets: Mapping[str, Tensor], pairs: Pairs, epoch: int = 0
    ) -> dict[str, Tensor]:
        """The weighted terms: name -> scalar float32; their sum is the loss. No term synchronises with the device.

        outputs: of the student, or of (dull, intelligent) with mutual_students; with needs.student_layers. targets: "target/array" ->
        (B, ...), at least needs.targets. epoch: from 0, for mutual_students. Names are those of configs.schema.Losses; with two students
        "dull/<term>" and "intelligent/<term>", and their shares of the mutual term "mutual_students/dull" and
        "mutual_students/intelligent". RunError names the target or layer and the term where something is missing.
        """
        both = outputs if isinstance(outputs, tuple) else (outputs,)
        if len(both) != len(self.terms):
            raise RunError(
                f"expected the outputs of {len(self.terms)} student(s), found {len(both)}; mutual_students takes (dull, intelligent)"
            )
        found: dict[str, Tensor] = {}
        prefixes = [""] if self.mutual is None else [f"{student}/" for student in STUDENTS]
        with torch.autocast(both[0].prediction.device.type, enabled=False):
            for prefix, terms, one in zip(prefixes, self.terms, both, strict=True):
                for name, module in terms.items():
                    found[prefix + name] = self.weights[name] * module(one, self._declared(name, targets), pairs)
            if self.mutual is not None:
                for share, value in self.mutual(both, self._declared(MUTUAL, targets), pairs, epoch).items():
                    found[f"{MUTUAL}/{share}"] = self.weights[MUTUAL] * value
        return found

    def _declared(self, term: str, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Only what the term says it needs: `needs` cannot be wrong unnoticed."""
        return {key: value for key, value in targets.items() if key.split("/")[0] in self.per_term[term].targets}


def build_objective(
    losses: schema.Losses,
    student_channels: Mapping[str, int],
    teacher_channels: Mapping[str, int] | None,
    numbers: int,
    second_channels: Mapping[str, int] | None = None,
) -> Objective:
    """The objective of a setting.

    student_channels, teacher_channels: layer -> channels (None: no teacher); numbers a proposal: 1 (ATOM) or 4 (DRNet: the losses act
    on the 4N box numbers); second_channels: of the intelligent student of mutual_students, by default those of the first.
    RequestError for what does not fit together, with the reason.
    """
    active = losses.active()
    if numbers not in (1, 4):
        raise RequestError(f"expected 1 (IoU) or 4 (box) numbers a proposal, found {numbers}; use a head of models.ARCHITECTURES")
    if not set(active) - {MUTUAL}:
        raise RequestError(f"expected a loss term{' beside mutual_students' * bool(active)}, found none; add e.g. losses.ground_truth=1")
    if second_channels is not None and MUTUAL not in active:
        raise RequestError("expected losses.mutual_students with a second student, found none; add it or drop second_student")
    channels = [student_channels] + ([second_channels or student_channels] if MUTUAL in active else [])
    for name, term in active.items():
        for one in channels:
            _check_layers(name, _layers(term), one, "student")
    students = tuple(Networks(one, teacher_channels or {}, numbers) for one in channels)
    objective = Objective(losses, students)
    for name, needs in objective.per_term.items():
        if needs.targets and teacher_channels is None:
            raise RequestError(
                f"expected a teacher for losses.{name} (target {', '.join(needs.targets)}), found none; set teacher.architecture"
            )
        for target in needs.targets:
            _check_layers(name, TARGETS[target].layers, teacher_channels or {}, "teacher")
    _check_projection(losses, channels)
    return objective


def _layers(term: schema.Loss) -> tuple[str, ...]:
    """Student layers that a term builds on: for a fixed projection every layer of its targets, which are stored as a whole."""
    layers: tuple[str, ...] = getattr(term, "layers", ())
    if isinstance(term, schema.ProjectedFidelity) and term.projection == "fixed":
        return tuple(layer for name in dict.fromkeys(by_layer("projected", layers).values()) for layer in TARGETS[name].layers)
    return layers


def _check_layers(term: str, layers: tuple[str, ...], channels: Mapping[str, int], network: str) -> None:
    for layer in layers:
        if layer not in channels:
            found = ", ".join(channels) or "none"
            raise RequestError(f"expected a {network} with layer '{layer}' for losses.{term}, found {found}; set losses.{term}.layers")


def _check_projection(losses: schema.Losses, channels: list[Mapping[str, int]]) -> None:
    """One cached target 'projected' is made for one student: two students must have the channels of that one."""
    term = losses.projected_fidelity
    if term is None or term.projection == "trained":
        return
    for layer in _layers(term):
        found = [one[layer] for one in channels]
        if len(set(found)) > 1:
            raise RequestError(
                f"expected two students with equal channels of {layer} for a fixed losses.projected_fidelity, found {found};"
                " set losses.projected_fidelity.projection=trained"
            )
