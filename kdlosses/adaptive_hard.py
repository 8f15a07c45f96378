"""Adaptive hard (AH): the ground-truth loss while the student is not clearly worse than the teacher. Letters: B pairs, N proposals.

Source: Liu et al., TSKD, arXiv:1907.10586; form and threshold of the public CFKD code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from configs.schema import AdaptiveHardTerm, Regression
from kdlosses.basic import regress
from kdlosses.labels import label
from kdlosses.needs import TermModule, target_of
from models import Outputs
from pairs.batch import Boxes


def adaptive_hard(student: Tensor, teacher: Tensor, wanted: Tensor, form: Regression, threshold: float) -> Tensor:
    """l_s if l_t - l_s < threshold, else 0, with l = reg(prediction, label) over the batch. Scalar.

    student, teacher, wanted: (B, N) or (B, N, 4). The choice is made on the device: no synchronisation.
    """
    of_student, of_teacher = regress(form, student.float(), wanted), regress(form, teacher, wanted)
    return torch.where(of_teacher - of_student < threshold, of_student, 0.0)


class AdaptiveHard(TermModule[AdaptiveHardTerm]):
    """The term of `AdaptiveHardTerm`."""

    reads = ("iou",)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        teacher, wanted = target_of(targets, "iou/iou"), label(boxes, self.numbers)
        return adaptive_hard(outputs.prediction, teacher, wanted, self.term.form, self.term.threshold)
