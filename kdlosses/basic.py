"""What several losses compute. Letters: B pairs, C channels, H W rows and columns."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from configs.errors import RequestError
from configs.schema import Regression


def regress(form: Regression, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of the squared error or of smooth L1 (beta 1). Scalar.

    RequestError where the shapes differ: nothing is ever broadcast into agreement.
    """
    if student.shape != teacher.shape:
        raise RequestError(
            f"expected student and teacher numbers of one shape, found {tuple(student.shape)} and {tuple(teacher.shape)};"
            " pick layers and networks with equal maps and heads"
        )
    return functional.mse_loss(student, teacher) if form == "mse" else functional.smooth_l1_loss(student, teacher)


def abs_sum(features: Tensor) -> Tensor:
    """F(U) = sum over channels of |U|: (B, C, H, W) -> (B, H, W), >= 0."""
    return features.abs().sum(1)
