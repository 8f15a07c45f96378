"""TSsKD: two students teach each other while each is close to the teacher. Letters: B pairs, N proposals.

Source: Liu et al., arXiv:1907.10586: L_dull + L_intel + sigma_d * SS + 0.5 * sigma_i * SS; L_dull and L_intel are the other terms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import MutualStudents as Term
from kdlosses.basic import regress
from kdlosses.labels import label
from kdlosses.needs import Needs, Networks, pick
from kdlosses.pairs import Pairs
from models import Outputs

NAME = "mutual_students"


def mutual_students(dull: Tensor, intelligent: Tensor, teacher: Tensor, wanted: Tensor, epoch: int, term: Term) -> dict[str, Tensor]:
    """The shares sigma * SS of both students, SS = smooth L1 of their predictions; its gradient reaches both students.

    dull, intelligent, teacher, wanted (B, N) or (B, N, 4). sigma = decay ** epoch if l - l_teacher < threshold, else 0, with
    l = smooth L1(prediction, label) over the batch. Returns scalars "dull" and "intelligent", factors applied.
    """
    between = regress("smooth_l1", dull, intelligent, NAME)
    of_teacher = regress("smooth_l1", teacher, wanted, NAME)
    shares = {}
    for name, student, factor in (("dull", dull, term.dull), ("intelligent", intelligent, term.intelligent)):
        close = regress("smooth_l1", student, wanted, NAME) - of_teacher < term.threshold
        shares[name] = torch.where(close, factor * term.decay**epoch * between, 0.0)
    return shares


class MutualStudents(nn.Module):
    """The term losses.mutual_students: unlike the others it takes both students and the epoch (from 0), and returns two scalars."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.term, self.numbers, self.needs = term, networks.numbers, Needs(("iou",))

    def forward(self, outputs: tuple[Outputs, Outputs], targets: Mapping[str, Tensor], pairs: Pairs, epoch: int) -> dict[str, Tensor]:
        dull, intelligent = (student.prediction.float() for student in outputs)
        return mutual_students(dull, intelligent, pick(targets, "iou/iou", NAME), label(pairs, self.numbers), epoch, self.term)
