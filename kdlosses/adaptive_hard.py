"""Adaptive hard (AH): the ground-truth loss while the student is not clearly worse than the teacher. Letters: B pairs, N proposals.

Source: Liu et al., TSKD, arXiv:1907.10586; form and threshold of the public CFKD code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import AdaptiveHard as Term
from configs.schema import Regression
from kdlosses.basic import regress
from kdlosses.labels import label
from kdlosses.needs import Needs, Networks, pick
from kdlosses.pairs import Pairs
from models import Outputs


def adaptive_hard(student: Tensor, teacher: Tensor, wanted: Tensor, form: Regression, threshold: float) -> Tensor:
    """l_s if l_t - l_s < threshold, else 0, with l = reg(prediction, label) over the batch. Scalar.

    student, teacher, wanted: (B, N) or (B, N, 4). The choice is made on the device: no synchronisation.
    """
    of_student = regress(form, student.float(), wanted, "adaptive_hard")
    of_teacher = regress(form, teacher, wanted, "adaptive_hard")
    return torch.where(of_teacher - of_student < threshold, of_student, 0.0)


class AdaptiveHard(nn.Module):
    """The term losses.adaptive_hard."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.form, self.threshold, self.numbers, self.needs = term.form, term.threshold, networks.numbers, Needs(("iou",))

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        teacher = pick(targets, "iou/iou", "adaptive_hard")
        return adaptive_hard(outputs.prediction, teacher, label(pairs, self.numbers), self.form, self.threshold)
