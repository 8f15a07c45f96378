"""Teacher soft (TS): regression of the student's prediction on the teacher's. Letters: B pairs, N proposals.

Source: Duolikun, UCL 2020 (smooth L1); Liu et al., TSKD, arXiv:1907.10586 (MSE).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from configs.schema import Regression, TeacherSoftTerm
from kdlosses.basic import regress
from kdlosses.needs import TermModule, target_of
from models import Outputs
from pairs.batch import Boxes


def teacher_soft(student: Tensor, teacher: Tensor, form: Regression) -> Tensor:
    """reg(student prediction, teacher prediction), both (B, N) or (B, N, 4). Scalar."""
    return regress(form, student.float(), teacher)


class TeacherSoft(TermModule[TeacherSoftTerm]):
    """The term of `TeacherSoftTerm`."""

    reads = ("iou",)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        return teacher_soft(outputs.prediction, target_of(targets, "iou/iou"), self.term.form)
