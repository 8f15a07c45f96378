"""Ground truth: regression of the student's prediction on the label. No teacher. Letters: B pairs, N proposals."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from configs.schema import GroundTruthTerm, Regression
from kdlosses.basic import regress
from kdlosses.labels import label
from kdlosses.needs import TermModule
from models import Outputs
from pairs.batch import Boxes


def ground_truth(prediction: Tensor, wanted: Tensor, form: Regression) -> Tensor:
    """reg(prediction, label), both (B, N) or (B, N, 4). Scalar."""
    return regress(form, prediction.float(), wanted)


class GroundTruth(TermModule[GroundTruthTerm]):
    """The term of `GroundTruthTerm`."""

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        return ground_truth(outputs.prediction, label(boxes, self.numbers), self.term.form)
