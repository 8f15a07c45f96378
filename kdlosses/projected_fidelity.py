"""Projected fidelity: student features through a 1x1 projection P against the teacher's features, both images.

Letters: B pairs, Cs channels of the student, Ct of the teacher, H W rows and columns of each image's map, n = Ct * H * W. P (Ct, Cs).
Source: Wang et al., arXiv:1907.09831; the public code draws P once and never trains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from configs.errors import RequestError
from configs.schema import ProjectedFidelityTerm
from kdlosses.basic import regress
from kdlosses.needs import Needs, Networks, TermModule, by_layer, stored_with, student_maps, target_of
from kdlosses.projection import Projection, draw_projection, project
from models import Outputs
from pairs.batch import Boxes


def from_projected(student: Tensor, gram: Tensor, projected: Tensor, mean_square: Tensor, channels: int) -> Tensor:
    """mean((Ps - t)^2) = mean((Ps)^2) - 2 <s, P^T t>/n + mean(t^2) of one image: whole teacher features are not needed. Scalar.

    student, projected = P^T t (B, Cs, H, W); gram = P^T P (Cs, Cs), so that Ps is never formed; mean_square (B,); channels = Ct.
    The terms cancel only as far as P s reaches t: with Cs = Ct/4 three quarters of mean(t^2) stay, and P^T t in float16 changes the value
    by < 1e-6 and the gradient by < 1e-4 of what it is for a fresh student (near the best s, where the gradient vanishes, relatively more).
    """
    if student.shape != projected.shape:
        raise RequestError(
            f"expected projected features of the student's shape {tuple(student.shape)}, found {tuple(projected.shape)};"
            " cache target 'projected' for this student"
        )
    again = project(gram, student)
    n = channels * student[0, 0].numel()
    return (student * (again - 2 * projected)).sum() / (n * len(student)) + mean_square.mean()


def from_features(student: Tensor, projection: Tensor, teacher: Tensor) -> Tensor:
    """mean((Ps - t)^2) of one image from whole features: student (B, Cs, H, W), teacher (B, Ct, H, W). Scalar."""
    return regress("mse", project(projection, student), teacher)


class ProjectedFidelity(TermModule[ProjectedFidelityTerm]):
    """The term of `ProjectedFidelityTerm`, summed over its layers, ref and test. projection: trained makes P a parameter to optimise."""

    reads = ("projected", "projected_shallow", "features", "features_shallow")

    def __init__(self, term: ProjectedFidelityTerm, networks: Networks) -> None:
        super().__init__(term, networks)
        self.trained = term.projection == "trained"
        self.holder = by_layer("features" if self.trained else "projected", term.layers)
        self.needs = Needs(tuple(dict.fromkeys(self.holder.values())), term.layers)
        # a fixed P is also what its targets are computed with: drawn for every layer they hold
        layers = term.layers if self.trained else [held for layer in term.layers for held in stored_with(layer)]
        drawn = draw_projection(term.seed, networks.student_channels, networks.teacher_channels, dict.fromkeys(layers))
        self.matrices = nn.ParameterDict({layer: nn.Parameter(matrix, requires_grad=self.trained) for layer, matrix in drawn.items()})

    @torch.no_grad()
    def use(self, projection: Projection) -> None:
        """Take P as it was stored beside the targets; RequestError where a layer is missing or of another shape."""
        for layer, matrix in self.matrices.items():
            wanted, stored = tuple(matrix.shape), tuple(projection[layer].shape) if layer in projection else None
            if wanted != stored:
                raise RequestError(
                    f"expected a stored projection of {layer} of shape {wanted} (teacher, student channels),"
                    f" found {stored}; cache target 'projected' for this student and teacher"
                )
            matrix.copy_(torch.as_tensor(projection[layer]))

    def forward(self, outputs: Outputs, targets: Mapping[str, Tensor], boxes: Boxes) -> Tensor:
        terms = []
        for layer, ref, test in student_maps(outputs, self.holder):
            holder, matrix = self.holder[layer], self.matrices[layer]
            of_ref, of_test = (target_of(targets, f"{holder}/{layer}_{image}") for image in ("ref", "test"))
            if self.trained:
                terms += [from_features(ref, matrix, of_ref), from_features(test, matrix, of_test)]
            else:
                square = target_of(targets, f"{holder}/mean_square")[:, :, stored_with(layer).index(layer)]
                gram, channels = matrix.T @ matrix, len(matrix)
                terms.append(from_projected(ref, gram, of_ref, square[:, 0], channels))
                terms.append(from_projected(test, gram, of_test, square[:, 1], channels))
        return reduce(torch.add, terms)
