"""The drawn 1x1 projection from student to teacher channels (Wang et al., arXiv:1907.09831)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from models import LAYERS, format_of
from pairs.streams import PROJECTION, counter_normal

Projection = Mapping[str, Tensor]
"""layer -> P (channels of the teacher, channels of the student), float32"""


def draw_projection(
    seed: int, student_channels: Mapping[str, int], teacher_channels: Mapping[str, int], layers: Iterable[str] = LAYERS
) -> dict[str, Tensor]:
    """P of those `layers` that both networks have, Xavier-normal: N(0, 2 / (C student + C teacher)).

    A pure function of (seed, layer, both channel counts), on the CPU. Precompute stores it beside the targets made with it.
    """
    drawn = {}
    for layer in layers:
        if layer in student_channels and layer in teacher_channels:
            rows, columns = teacher_channels[layer], student_channels[layer]
            normal = counter_normal(seed, PROJECTION[LAYERS.index(layer)], 0, rows, columns)
            drawn[layer] = torch.from_numpy(normal * math.sqrt(2 / (rows + columns))).float()
    return drawn


def project(matrix: Tensor, maps: Tensor) -> Tensor:
    """Channels (..., C') of the maps through a matrix (C', C): (B, C, H, W) -> (B, C', H, W), in the memory format of the maps."""
    if format_of(maps) == torch.channels_last:
        return (maps.permute(0, 2, 3, 1) @ matrix.T).permute(0, 3, 1, 2)
    return (matrix @ maps.flatten(2)).unflatten(2, maps.shape[2:])
