"""Fidelity: channel-summed absolute features of the student against the teacher's, both images.

Letters: B pairs, C channels, H W rows and columns, of each image's own map. F(U) = sum over channels of |U|, so the channel counts of
student and teacher may differ, their maps may not. Source: Duolikun, UCL 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from configs.schema import FidelityTerm, Regression
from kdlosses.basic import abs_sum, regress
from kdlosses.needs import Needs, Networks, TermModule, by_layer, student_maps, target_of
from models import Outputs
from pairs.batch import Boxes


def fidelity(student: Tensor, teacher: Tensor, form: Regression) -> Tensor:
    """reg(F(student), F(teacher)) of one map: student (B, C, H, W), teacher (B, H, W), F already. Scalar."""
    return regress(form, abs_sum(student), teacher)


class Fidelity(TermModule[FidelityTerm]):
    """The term of `FidelityTerm`, summed over its layers, ref and test."""

    reads = ("abs_sum", "abs_sum_shallow")

    def __init__(self, term: FidelityTerm, networks: Networks) -> None:
        super().__init__(term, networks)
        self.holder = by_layer("abs_sum", term.layers)
        self.needs = Needs(tuple(dict.fromkeys(self.holder.values())), term.layers)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        terms = []
        for layer, ref, test in student_maps(outputs, self.holder):
            key = f"{self.holder[layer]}/{layer}"
            of_ref, of_test = (target_of(targets, f"{key}_{image}") for image in ("ref", "test"))
            terms.append(fidelity(ref, of_ref, self.term.form) + fidelity(test, of_test, self.term.form))
        return reduce(torch.add, terms)
