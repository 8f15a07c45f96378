"""Fidelity: channel-summed absolute features of the student against the teacher's, both images.

Letters: B pairs, C channels, H W rows and columns. F(U) = sum over channels of |U|, so the channel counts may differ, the maps may not.
Source: Duolikun, UCL 2020.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from configs.schema import Fidelity as Term
from configs.schema import Regression
from kdlosses.basic import abs_sum, layer_of, regress
from kdlosses.needs import Needs, Networks, pick
from kdlosses.pairs import Pairs
from kdlosses.targets import by_layer
from models import Outputs


def fidelity(ref: Tensor, test: Tensor, teacher: Tensor, form: Regression) -> Tensor:
    """reg(F(ref), F(ref of the teacher)) + reg(F(test), F(test of the teacher)) of one layer. Scalar.

    ref, test (B, C, H, W) of the student; teacher (B, 2, H, W): F(ref), F(test).
    """
    images = zip((ref, test), teacher.unbind(1), strict=True)
    first, second = (regress(form, abs_sum(student), wanted, "fidelity") for student, wanted in images)
    return first + second


class Fidelity(nn.Module):
    """The term losses.fidelity, summed over its layers."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.form, self.holder = term.form, by_layer("abs_sum", term.layers)
        self.needs = Needs(tuple(dict.fromkeys(self.holder.values())), term.layers)

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        terms = [
            fidelity(
                layer_of(outputs.ref, layer, "fidelity"),
                layer_of(outputs.test, layer, "fidelity"),
                pick(targets, f"{holder}/{layer}", "fidelity"),
                self.form,
            )
            for layer, holder in self.holder.items()
        ]
        return sum(terms[1:], terms[0])
