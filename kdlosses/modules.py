"""The loss terms there are: the section of the configuration -> the module that computes it. A term's name is its field in `Losses`."""

from __future__ import annotations

from typing import Any

from configs import schema
from kdlosses.adaptive_hard import AdaptiveHard
from kdlosses.classifier import Classifier
from kdlosses.correlation_filter import CorrelationFilter
from kdlosses.fidelity import Fidelity
from kdlosses.ground_truth import GroundTruth
from kdlosses.mutual_students import MutualStudents
from kdlosses.needs import TermModule
from kdlosses.projected_fidelity import ProjectedFidelity
from kdlosses.target_response import TargetResponse
from kdlosses.teacher_soft import TeacherSoft
from kdlosses.tracking import Tracking

MODULES: dict[type[schema.Term], type[TermModule[Any]]] = {
    schema.GroundTruthTerm: GroundTruth,
    schema.TeacherSoftTerm: TeacherSoft,
    schema.AdaptiveHardTerm: AdaptiveHard,
    schema.FidelityTerm: Fidelity,
    schema.ProjectedFidelityTerm: ProjectedFidelity,
    schema.CorrelationFilterTerm: CorrelationFilter,
    schema.TargetResponseTerm: TargetResponse,
    schema.TrackingTerm: Tracking,
    schema.ClassifierTerm: Classifier,
    schema.MutualStudentsTerm: MutualStudents,
}
