"""TSsKD: two students teach each other while each is close to the teacher. Letters: B pairs, N proposals.

Source: Liu et al., arXiv:1907.10586: L_dull + L_intel + sigma_d * SS + 0.5 * sigma_i * SS; L_dull and L_intel are the other terms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from configs.schema import MutualStudentsTerm
from kdlosses.basic import regress
from kdlosses.labels import label
from kdlosses.needs import TermModule, target_of
from models import Outputs
from pairs.batch import Boxes

STUDENTS = ("dull", "intelligent")


def mutual_students(
    students: tuple[Tensor, Tensor], teacher: Tensor, wanted: Tensor, epoch: int, term: MutualStudentsTerm
) -> dict[str, Tensor]:
    """The shares sigma * SS of both students, SS = smooth L1 of their predictions; its gradient reaches both students.

    students (dull, intelligent), teacher, wanted: (B, N) or (B, N, 4). sigma = decay ** epoch if l - l_teacher < threshold, else 0, with
    l = smooth L1(prediction, label) over the batch. Returns scalars "dull" and "intelligent", factors applied.
    """
    between = regress("smooth_l1", *students)
    of_teacher = regress("smooth_l1", teacher, wanted)
    shares = {}
    for name, student, factor in zip(STUDENTS, students, (term.dull, term.intelligent), strict=True):
        close = regress("smooth_l1", student, wanted) - of_teacher < term.threshold
        shares[name] = torch.where(close, factor * term.decay**epoch * between, 0.0)
    return shares


class MutualStudents(TermModule[MutualStudentsTerm]):
    """The term of `MutualStudentsTerm`: unlike the others it takes both students and the epoch (from 0), and returns two scalars."""

    reads, students = ("iou",), 2

    def forward(self, outputs: tuple[Outputs, Outputs], targets: Mapping[str, Tensor], boxes: Boxes, epoch: int) -> dict[str, Tensor]:
        students = (outputs[0].prediction.float(), outputs[1].prediction.float())
        return mutual_students(students, target_of(targets, "iou/iou"), label(boxes, self.numbers), epoch, self.term)
