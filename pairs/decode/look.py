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

    In the order of `pairs.decode.decoder`, in fewer passes over the pixels: brightness, mean and deviation are one product and one sum; the
    upper clamp alone is left, because brightness is above 0; mirroring, and blur, whose weights sum to 1, commute with all of it.
    """
    scale = (looks.brightness / np.float32(255))[:, None] / STD
    # one copy to the device for all of them
    numbers = np.concatenate([[-MEAN / STD, (1 - MEAN) / STD], scale]).astype(np.float32)
    shift, white, scales = move(numbers)[..., None, None].split((1, 1, len(scale)))
    rgb = bgr.flip(-1).permute(0, 3, 1, 2)
    if looks.flip.any():
        rgb = torch.where(move(looks.flip)[:, None, None, None], rgb.flip(-1), rgb)
    images = torch.addcmul(shift, rgb, scales)
    if len(greys := np.flatnonzero(looks.grey)):
        rows = move(greys)
        weights = move(np.array(GREY, np.float32))[:, None, None]
        images[rows] = torch.addcmul(shift, (rgb[rows] * weights).sum(1, keepdim=True), scales[rows])
    torch.minimum(images, white, out=images)
    if len(blurred := np.flatnonzero(looks.blur)):
        rows = move(blurred)
        along = blur_matrices(looks.blur[blurred], images.shape[-1], move)[:, None]
        images[rows] = along @ images[rows] @ along.transpose(-1, -2)
    return images.contiguous(memory_format=torch.channels_last)


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
