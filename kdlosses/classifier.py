"""Classifier: features on which a classifier learnt on the ref image finds the target in the test image, as a tracker's online one must.

Letters: B pairs, H W rows and columns of the test map. The IoU losses ask nothing of the sort of the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from configs.schema import ClassifierTerm
from kdlosses.basic import regress
from kdlosses.needs import Needs, Networks, TermModule, student_maps, target_of
from kdlosses.ridge import label_map, ridge_answer
from models import STRIDES, Outputs
from pairs.batch import Boxes


class Classifier(TermModule[ClassifierTerm]):
    """The term of `ClassifierTerm`, summed over its layers: MSE of the ridge answer against the label or the teacher's answer."""

    reads = ("classifier",)

    def __init__(self, term: ClassifierTerm, networks: Networks) -> None:
        super().__init__(term, networks)
        self.needs = Needs(self.reads if term.wanted == "teacher" else (), term.layers)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        terms = []
        for layer, ref, test in student_maps(outputs, self.term.layers):
            if self.term.wanted == "teacher":
                wanted = target_of(targets, f"classifier/{layer}_test")
            else:
                wanted = label_map(boxes.test_box, boxes.test, (test.shape[-2], test.shape[-1]), STRIDES[layer])
            terms.append(regress("mse", ridge_answer(ref, test, boxes, STRIDES[layer]), wanted))
        return reduce(torch.add, terms)
