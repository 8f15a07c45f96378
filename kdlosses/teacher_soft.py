"""Teacher soft (TS): regression of the student's prediction on the teacher's. Letters: B pairs, N proposals.

Source: Duolikun, UCL 2020 (smooth L1); Liu et al., TSKD, arXiv:1907.10586 (MSE).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from configs.schema import Regression
from configs.schema import TeacherSoft as Term
from kdlosses.basic import regress
from kdlosses.needs import Needs, Networks, pick
from kdlosses.pairs import Pairs
from models import Outputs


def teacher_soft(student: Tensor, teacher: Tensor, form: Regression) -> Tensor:
    """reg(student prediction, teacher prediction), both (B, N) or (B, N, 4). Scalar."""
    return regress(form, student.float(), teacher, "teacher_soft")


class TeacherSoft(nn.Module):
    """The term losses.teacher_soft."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.form, self.needs = term.form, Needs(("iou",))

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        return teacher_soft(outputs.prediction, pick(targets, "iou/iou", "teacher_soft"), self.form)
