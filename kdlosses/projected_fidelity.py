"""Projected fidelity: student features through a 1x1 projection P against the teacher's features, both images.

Letters: B pairs, Cs channels of the student, Ct of the teacher, H W rows and columns, n = Ct * H * W. P (Ct, Cs).
Source: Wang et al., arXiv:1907.09831; the public code draws P once and never trains it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.errors import RequestError
from configs.schema import ProjectedFidelity as Term
from kdlosses.basic import layer_of, regress
from kdlosses.needs import Needs, Networks, pick
from kdlosses.pairs import Pairs
from kdlosses.projection import Projection, draw_projection
from kdlosses.targets import TARGETS, by_layer
from models import Outputs

NAME = "projected_fidelity"


def from_projected(student: Tensor, gram: Tensor, projected: Tensor, mean_square: Tensor, channels: int) -> Tensor:
    """mean((Ps - t)^2) = mean((Ps)^2) - 2 <s, P^T t>/n + mean(t^2) of one image: whole teacher features are not needed. Scalar.

    student, projected = P^T t (B, Cs, H, W); gram = P^T P (Cs, Cs), so that Ps is never formed; mean_square (B,); channels = Ct.
    The terms cancel only as far as P s reaches t: with Cs = Ct/4 three quarters of mean(t^2) stay, and P^T t in float16 changes the value
    by < 1e-6 and the gradient by < 1e-4 of what it is for a fresh student (near the best s, where the gradient vanishes, relatively more).
    """
    if student.shape != projected.shape:
        raise RequestError(
            f"expected projected features of the student's shape {tuple(student.shape)} in losses.{NAME}, found {tuple(projected.shape)};"
            " cache target 'projected' for this student"
        )
    again = (gram @ student.flatten(2)).view_as(student)
    n = channels * student[0, 0].numel()
    return (student * (again - 2 * projected)).sum() / (n * len(student)) + mean_square.mean()


def from_features(student: Tensor, projection: Tensor, teacher: Tensor) -> Tensor:
    """mean((Ps - t)^2) of one image from whole features: student (B, Cs, H, W), teacher (B, Ct, H, W). Scalar."""
    seen = (projection @ student.flatten(2)).unflatten(2, student.shape[2:])
    return regress("mse", seen, teacher, NAME)


class ProjectedFidelity(nn.Module):
    """The term losses.projected_fidelity, summed over its layers. projection: trained makes P a parameter: give it to the optimiser."""

    def __init__(self, term: Term, networks: Networks) -> None:
        super().__init__()
        self.trained = term.projection == "trained"
        self.holder = by_layer("features" if self.trained else "projected", term.layers)
        self.needs = Needs(tuple(dict.fromkeys(self.holder.values())), term.layers)
        # a fixed P is also what its targets are computed with: drawn for every layer they hold
        layers = term.layers if self.trained else [layer for name in self.needs.targets for layer in TARGETS[name].layers]
        drawn = draw_projection(term.seed, networks.student_channels, networks.teacher_channels, layers)
        self.matrices = nn.ParameterDict({layer: nn.Parameter(matrix, requires_grad=self.trained) for layer, matrix in drawn.items()})

    @torch.no_grad()
    def use(self, projection: Projection) -> None:
        """Take P as it was stored beside the targets; RequestError where a layer is missing or of another shape."""
        for layer, matrix in self.matrices.items():
            wanted, found = tuple(matrix.shape), tuple(projection[layer].shape) if layer in projection else None
            if wanted != found:
                raise RequestError(
                    f"expected a stored projection of {layer} of shape {wanted} (teacher, student channels) for losses.{NAME},"
                    f" found {found}; cache target 'projected' for this student and teacher"
                )
            matrix.copy_(torch.as_tensor(projection[layer]))

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
        terms = []
        for layer, holder in self.holder.items():
            index = TARGETS[holder].layers.index(layer)
            matrix, teacher = self.matrices[layer], pick(targets, f"{holder}/{layer}", NAME)
            for image, features in enumerate((outputs.ref, outputs.test)):
                student = layer_of(features, layer, NAME)
                if self.trained:
                    terms.append(from_features(student, matrix, teacher[:, image]))
                else:
                    square = pick(targets, f"{holder}/mean_square", NAME)[:, image, index]
                    terms.append(from_projected(student, matrix.T @ matrix, teacher[:, image], square, len(matrix)))
        return sum(terms[1:], terms[0])
