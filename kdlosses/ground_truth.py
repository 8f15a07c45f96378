"""Ground truth: regression of the student's prediction on the label. No teacher. Letters: B pairs, N proposals."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from configs.schema import GroundTruth as Term
from configs.schema import Regression
from kdlosses.basic import regress
from kdlosses.labels import label
from kdlosses.needs import Needs, Networks
from kdlosses.pairs import Pairs
from models import Outputs


def ground_truth(prediction: Tensor, wanted: Tensor, form: Regression) -> Tensor:
    """reg(prediction, label), both (B, N) or (B, N, 4). Scalar."""
    return regress(form, prediction.float(), wanted, "ground_truth")


class GroundTruth(nn.Module):
    """The term losses.ground_truth."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.form, self.numbers, self.needs = term.form, networks.numbers, Needs()

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        return ground_truth(outputs.prediction, label(pairs, self.numbers), self.form)
