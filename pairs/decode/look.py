"""The photometry of decoded crops in PyTorch, for a batch on a GPU: what `pairs.decode.opencv` does image by image on a processor.

Letters: n images, S side of a crop in pixels, R radius of a blur in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pairs.decode.decoder import GREY, MEAN, STD, Looks

Move = Callable[[np.ndarray], Tensor]
"""Brings a small array to where the images are"""


def network_input(bgr: Tensor, looks: Looks, move: Move) -> Tensor:
    """bgr (n, S, S, 3) uint8 as decoded, the looks of these n images -> (n, 3, S, S) float32 normalised, channels last.

    In the order of `pairs.decode.decoder`, but mirrored at the start, which is the same.
    """
    rgb = bgr.flip(-1).permute(0, 3, 1, 2)
    images = torch.where(_by_image(move(looks.flip)), rgb.flip(-1), rgb).float()
    if looks.grey.any():
        grey = (images * move(np.array(GREY, np.float32))[:, None, None]).sum(1, keepdim=True)
        images = torch.where(_by_image(move(looks.grey)), grey, images)
    images.mul_(_by_image(move(looks.brightness / np.float32(255)))).clamp_(0, 1)
    blurred = np.flatnonzero(looks.blur)
    if len(blurred):
        rows = move(blurred)
        along = blur_matrices(looks.blur[blurred], images.shape[-1], move)[:, None]
        images[rows] = along @ images[rows] @ along.transpose(-1, -2)
    mean, std = (move(values)[:, None, None] for values in (MEAN, STD))
    return images.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def _by_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def blur_matrices(sigmas: np.ndarray, size: int, move: Move) -> Tensor:
    """sigmas (n,) in pixels -> (n, S, S): row i says how much of each pixel of a line becomes pixel i.

    Gaussians of radius ceil(3 sigma) that sum to 1; the line goes on beyond its ends mirrored, without its end pixel.
    """
    radii = [math.ceil(np.float32(3) * np.float32(sigma)) for sigma in sigmas]
    offsets = np.arange(-max(radii), max(radii) + 1)
    weights = np.exp(-(offsets**2) / (2 * sigmas[:, None].astype(np.float64) ** 2)) * (abs(offsets) <= np.array(radii)[:, None])
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    place = abs(np.arange(size)[:, None] + offsets)
    place = np.where(place < size, place, 2 * (size - 1) - place)
    matrices = torch.zeros(len(sigmas), size, size, device=(there := move(weights)).device)
    index = move(place)[None].expand(len(sigmas), -1, -1)
    return matrices.scatter_add_(2, index, there[:, None].expand(-1, size, -1))
