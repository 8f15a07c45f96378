"""Target response: features weighted by the correlation response (or a Gaussian), student against teacher.

Letters: B pairs, H W rows and columns, k the side of the target patch. Source: Liu et al., TSKD, arXiv:1907.10586.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import Regression
from configs.schema import TargetResponse as Term
from kdlosses.basic import layer_of, regress
from kdlosses.needs import Needs, Networks, pick
from kdlosses.pairs import Pairs
from kdlosses.response import Response, response
from kdlosses.targets import TARGETS
from models import STRIDES, Outputs

NAME = "target_response"


def target_response(student: Response, teacher: Response, form: Regression) -> Tensor:
    """reg(F(test_s * w_s), F(test_t * w_t)) + reg(F(patch_s), F(patch_t)) of one layer, w = Q / (sum of Q over the whole batch). Scalar.

    Under data parallelism the batch is the one of each device. Of signed maps (MobileNetV2's layer1 to layer3) the sum may come near 0 and
    the term grow without bound for a step; that is the published form.
    """
    weighted = regress(form, _normalised(student), _normalised(teacher), NAME)
    return weighted + regress(form, student.patch, teacher.patch, NAME)


def _normalised(numbers: Response) -> Tensor:
    """F(test * w) (B, H, W) from F(test) * |Q| and the sum of Q a pair."""
    total = numbers.weight_sum.sum()
    return numbers.weighted / torch.where(total == 0, 1.0, total.abs())


class TargetResponse(nn.Module):
    """The term losses.target_response, summed over its layers."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.term, self.target = term, "response" if term.weights == "correlation" else "response_gaussian"
        self.needs = Needs((self.target,), term.layers)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        terms = []
        for layer in self.term.layers:
            ref, test = layer_of(outputs.ref, layer, NAME), layer_of(outputs.test, layer, NAME)
            student = response(ref, test, pairs, STRIDES[layer], self.term.weights)
            terms.append(target_response(student, self._teacher(targets, layer), self.term.form))
        return sum(terms[1:], terms[0])

    def _teacher(self, targets: Mapping[str, Tensor], layer: str) -> Response:
        """The teacher's numbers of one layer, put together again from what is stored."""
        index = TARGETS[self.target].layers.index(layer)
        weighted, patch, scale, weight_sum = (
            pick(targets, f"{self.target}/{key}", NAME) for key in (f"{layer}_weighted", f"{layer}_patch", "scale", "weight_sum")
        )
        return Response(weighted * scale[:, index, None, None], weight_sum[:, index], patch)
