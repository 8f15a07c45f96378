"""What several losses share. Letters: B pairs, C channels, H W rows and columns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from configs.errors import RequestError, RunError
from configs.schema import Regression


def regress(form: Regression, found: Tensor, wanted: Tensor, term: str) -> Tensor:
    """Mean over all elements of the squared error or of smooth L1 (beta 1). Scalar.

    RequestError where the shapes differ: nothing is ever broadcast into agreement.
    """
    if found.shape != wanted.shape:
        raise RequestError(
            f"expected student and teacher numbers of one shape in losses.{term}, found {tuple(found.shape)} and {tuple(wanted.shape)};"
            " pick layers and networks with equal maps and heads"
        )
    return functional.mse_loss(found, wanted) if form == "mse" else functional.smooth_l1_loss(found, wanted)


def abs_sum(features: Tensor) -> Tensor:
    """F(U) = sum over channels of |U|: (B, C, H, W) -> (B, H, W), >= 0."""
    return features.abs().sum(1)


def layer_of(features: Mapping[str, Tensor], layer: str, term: str) -> Tensor:
    """features[layer] as float32; RunError if the student was not asked for it."""
    if layer not in features:
        raise RunError(
            f"expected student features of '{layer}' for loss term '{term}', found {', '.join(features) or 'none'};"
            " call the student with layers=objective.needs.student_layers"
        )
    return features[layer].float()
