"""Target response: features weighted by the correlation response (or a Gaussian), student against teacher.

Letters: B pairs, H W rows and columns of the test map, k the side of the target patch. Source: Liu et al., TSKD, arXiv:1907.10586.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from configs.schema import Regression, TargetResponseTerm
from kdlosses.basic import regress
from kdlosses.needs import Needs, Networks, TermModule, student_maps, target_of
from kdlosses.response import Response, response
from models import LAYERS, STRIDES, Outputs
from pairs.batch import Boxes


def target_response(student: Response, teacher: Response, form: Regression) -> Tensor:
    """reg(F(test_s * w_s), F(test_t * w_t)) + reg(F(patch_s), F(patch_t)) of one layer, w = Q / (sum of Q over the whole batch). Scalar.

    Under data parallelism the batch is the one of each device. Of signed maps (MobileNetV2's layer1 to layer3) the sum may come near 0 and
    the term grow without bound for a step; that is the published form.
    """
    return regress(form, _normalised(student), _normalised(teacher)) + regress(form, student.patch, teacher.patch)


def _normalised(numbers: Response) -> Tensor:
    """F(test * w) (B, H, W) from F(test) * |Q| and the sum of Q a pair."""
    total = numbers.weight_sum.sum()
    return numbers.weighted / torch.where(total == 0, 1.0, total.abs())


class TargetResponse(TermModule[TargetResponseTerm]):
    """The term of `TargetResponseTerm`, summed over its layers."""

    reads = ("response", "response_gaussian")

    def __init__(self, term: TargetResponseTerm, networks: Networks) -> None:
        super().__init__(term, networks)
        self.target = "response" if term.weights == "correlation" else "response_gaussian"
        self.needs = Needs((self.target,), term.layers)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        terms = []
        for layer, ref, test in student_maps(outputs, self.term.layers):
            student = response(ref, test, boxes, STRIDES[layer], self.term.weights)
            terms.append(target_response(student, self._teacher(targets, layer), self.term.form))
        return reduce(torch.add, terms)

    def _teacher(self, targets: Mapping[str, Tensor], layer: str) -> Response:
        """The teacher's numbers of one layer, put together again from what is stored (of all `LAYERS`, in their order)."""
        weighted, patch, scale, weight_sum = (
            target_of(targets, f"{self.target}/{key}") for key in (f"{layer}_weighted", f"{layer}_patch", "scale", "weight_sum")
        )
        index = LAYERS.index(layer)
        return Response(weighted * scale[:, index, None, None], weight_sum[:, index], patch)
