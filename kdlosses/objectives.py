"""The objective of a run: the terms that a setting turns on, each computed, weighted and returned by name; the loop only sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import models
from configs.errors import RequestError, RunError, TeachOnceError
from configs.schema import Config, Losses
from kdlosses.modules import MODULES
from kdlosses.mutual_students import STUDENTS
from kdlosses.needs import Needs, Networks
from kdlosses.projected_fidelity import ProjectedFidelity
from kdlosses.projection import Projection
from kdlosses.targets import TARGETS
from models import LAYERS, Outputs
from pairs.batch import Boxes

Channels = Mapping[str, int]


class Objective(nn.Module):
    """The weighted terms of a setting. Build it with `build_objective`.

    per_term: term name (configs.schema.Losses) -> Needs; needs: all of them together. terms: one ModuleDict of terms a student; mutual: the
    terms of both students together. A trained projection is the only parameter with requires_grad.
    """

    def __init__(self, losses: Losses, students: tuple[Networks, ...]) -> None:
        super().__init__()
        active = losses.active()
        self.weights = {name: term.weight for name, term in active.items()}
        modules = [{name: MODULES[type(term)](term, networks) for name, term in active.items()} for networks in students]
        self.per_term: dict[str, Needs] = {name: module.needs for name, module in modules[0].items()}
        self.needs = _together(self.per_term.values())
        alone = [{name: module for name, module in terms.items() if module.students == 1} for terms in modules]
        self.terms = nn.ModuleList(nn.ModuleDict(terms) for terms in alone)
        self.mutual = nn.ModuleDict({name: module for name, module in modules[0].items() if name not in alone[0]})

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
        return [module for module in self.modules() if isinstance(module, ProjectedFidelity) and not module.trained]

    def forward(
        self, outputs: Outputs | tuple[Outputs, Outputs], targets: Mapping[str, Tensor], boxes: Boxes, epoch: int = 0
    ) -> dict[str, Tensor]:
        """The weighted terms: name -> scalar float32; their sum is the loss. No term synchronises with the device.

        outputs: of the student, or of (dull, intelligent) with mutual_students; with needs.student_layers. targets: "target/array" ->
        (B, ...), at least needs.targets. epoch: from 0, for mutual_students. Names are those of configs.schema.Losses; with two students
        "dull/<term>" and "intelligent/<term>", and their shares of the mutual term "mutual_students/dull" and
        "mutual_students/intelligent". RunError names the target or layer and the term where something is missing.
        """
        students = outputs if isinstance(outputs, tuple) else (outputs,)
        if len(students) != len(self.terms):
            raise RunError(
                f"expected the outputs of {len(self.terms)} student(s), found {len(students)}; mutual_students takes (dull, intelligent)"
            )
        named: dict[str, Tensor] = {}
        prefixes = [f"{student}/" for student in STUDENTS] if self.mutual else [""]
        with torch.autocast(students[0].prediction.device.type, enabled=False):
            for prefix, terms, student in zip(prefixes, self.terms, students, strict=True):
                for name, module in terms.named_children():
                    named[prefix + name] = self.weights[name] * self._term(name, module, student, targets, boxes)
            for name, module in self.mutual.named_children():
                for share, value in self._term(name, module, students, targets, boxes, epoch).items():
                    named[f"{name}/{share}"] = self.weights[name] * value
        return named

    def _term(self, name: str, module: nn.Module, outputs: object, targets: Mapping[str, Tensor], *rest: object) -> Any:
        """What a term gives. It sees the targets that it declares and no other: `needs` cannot be wrong unnoticed."""
        declared = {key: value for key, value in targets.items() if key.split("/")[0] in self.per_term[name].targets}
        try:
            return module(outputs, declared, *rest)
        except TeachOnceError as error:
            raise type(error)(f"losses.{name}: {error}") from error


def _together(needs: Iterable[Needs]) -> Needs:
    """What several terms need together, each name once, in the orders of the tables."""
    terms = list(needs)
    targets, layers = ({name for term in terms for name in term[kind]} for kind in (0, 1))
    return Needs(tuple(name for name in TARGETS if name in targets), tuple(name for name in LAYERS if name in layers))


def needed_targets(objectives: Iterable[Objective]) -> tuple[str, ...]:
    """The targets that the objectives of a run read, in the order of the table."""
    return _together(objective.needs for objective in objectives).targets


def build_objectives(config: Config, teacher_architecture: str | None) -> list[Objective]:
    """The objective of each phase. RequestError where networks and losses do not fit together, with the reason."""
    channels, numbers = models.network_sizes(config.student.architecture)
    second = _channels("second_student", config.second_student.architecture, config) if config.second_student else None
    teacher = _channels("teacher", teacher_architecture, config) if teacher_architecture else None
    return [
        build_objective(phase.losses, channels, teacher, numbers, second if phase.losses.mutual_students else None)
        for phase in config.phases_or_one()
    ]


def _channels(role: str, architecture: str, config: Config) -> Channels:
    """Of a network beside the student. RequestError if its head gives other numbers than the student's."""
    student = config.student.architecture
    (channels, found), (_, numbers) = models.network_sizes(architecture), models.network_sizes(student)
    if found != numbers:
        raise RequestError(
            f"{role}.architecture: expected {numbers} number(s) a proposal as {student} has, found {found};"
            " pair an atom_ network with an atom_ network and a drnet_ with a drnet_"
        )
    return channels


def build_objective(
    losses: Losses, student_channels: Channels, teacher_channels: Channels | None, numbers: int, second_channels: Channels | None = None
) -> Objective:
    """The objective of a setting.

    student_channels, teacher_channels: layer -> channels (None: no teacher); numbers a proposal: 1 (ATOM) or 4 (DRNet: the losses act
    on the 4N box numbers); second_channels: of the intelligent student of mutual_students, by default those of the first.
    RequestError for what does not fit together, with the reason.
    """
    active = losses.active()
    mutual = [name for name, term in active.items() if MODULES[type(term)].students == 2]
    if numbers not in (1, 4):
        raise RequestError(f"expected 1 (IoU) or 4 (box) numbers a proposal, found {numbers}; use a head of models.ARCHITECTURES")
    if len(active) == len(mutual):
        raise RequestError(f"expected a loss term{' beside mutual_students' * bool(active)}, found none; add e.g. losses.ground_truth=1")
    if second_channels is not None and not mutual:
        raise RequestError("expected losses.mutual_students with a second student, found none; add it or drop second_student")
    students = [student_channels] + ([second_channels or student_channels] if mutual else [])
    objective = Objective(losses, tuple(Networks(channels, teacher_channels or {}, numbers) for channels in students))
    for name, needs in objective.per_term.items():
        _check_networks(name, needs, students, teacher_channels)
    return objective


def _check_networks(term: str, needs: Needs, students: list[Channels], teacher: Channels | None) -> None:
    """Whether the networks have what a term builds on."""
    projected = [layer for target in needs.targets if TARGETS[target].projected for layer in TARGETS[target].layers]
    for channels in students:
        # a fixed projection needs every layer of its targets, which are stored as a whole
        _check_layers(term, projected or needs.student_layers, channels, "student")
    if needs.targets and teacher is None:
        raise RequestError(
            f"expected a teacher for losses.{term} (target {', '.join(needs.targets)}), found none; set teacher.architecture"
        )
    for target in needs.targets:
        _check_layers(term, TARGETS[target].layers, teacher or {}, "teacher")
    for layer in projected:
        counts = [channels[layer] for channels in students]
        if len(set(counts)) > 1:
            # one cached target is made for one student
            raise RequestError(
                f"expected two students with equal channels of {layer} for a fixed losses.{term}, found {counts};"
                f" set losses.{term}.projection=trained"
            )


def _check_layers(term: str, layers: Iterable[str], channels: Channels, network: str) -> None:
    for layer in layers:
        if layer not in channels:
            found = ", ".join(channels) or "none"
            raise RequestError(f"expected a {network} with layer '{layer}' for losses.{term}, found {found}; set losses.{term}.layers")
