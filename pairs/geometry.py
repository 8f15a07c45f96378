"""Where the crops of a pair lie in their frames, and where the target lies in its crop. Imports no torch.

Letters: n pairs. Image axis (2): 0 = ref, 1 = test. Boxes are (x, y, w, h), top-left corner; pixel j is centred at j.
Source: ATOM (arXiv:1811.07628), as its public code does it.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from configs.schema import ImageConfig, PairsConfig

_PUBLISHED_TARGET = Fraction(58, 288) * 5  # side of a target's patch in the public code, 58 pixels in 288, at area factor 5


def jitter(box: np.ndarray, normal: np.ndarray, uniform: np.ndarray, pairs: PairsConfig) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size (n, 2, 2) of the boxes that the crops are centred on.

    box (n, 2, 4) in frame pixels; normal (n, 2, 2) for w, h; uniform (n, 2, 2) for x, y. size = (w, h) * exp(N * scale_jitter); the centre
    moves by U(-0.5, 0.5) * sqrt(w * h of that size) * center_jitter on each axis; the jitters are those of each image.
    """
    scale = np.array([image.scale_jitter for image in pairs.images])[:, None]
    shift = np.array([image.center_jitter for image in pairs.images])[:, None]
    size = box[..., 2:] * np.exp(normal * scale)
    reach = np.sqrt(size[..., 0] * size[..., 1])[..., None]
    return box[..., :2] + 0.5 * box[..., 2:] + (uniform - 0.5) * reach * shift, size


def crop_side(size: np.ndarray, pairs: PairsConfig) -> np.ndarray:
    """Side of each square crop in frame pixels, ceil(sqrt(w * h) * area_factor), as float64: size (n, 2, 2) -> (n, 2)."""
    factor = np.array([image.area_factor for image in pairs.images])
    return np.ceil(np.sqrt(size[..., 0] * size[..., 1]) * factor)


def to_crop(box: np.ndarray, center: np.ndarray, size: np.ndarray, pairs: PairsConfig) -> np.ndarray:
    """Annotated boxes (n, 2, 4) in crop pixels: centre (S - 1) / 2 + (centre - crop centre) * S / side, size * S / side.

    The crop's centre is the unrounded one of the jittered box, as in the public code; S = size of that image's crop.
    """
    crop = np.array([image.size for image in pairs.images], np.float64)
    scale = (crop / crop_side(size, pairs))[..., None]
    middle = ((crop - 1) / 2)[:, None] + (box[..., :2] + 0.5 * box[..., 2:] - center) * scale
    sides = box[..., 2:] * scale
    return np.concatenate([middle - 0.5 * sides, sides], axis=-1)


def target_cells(test: ImageConfig, stride: int) -> int:
    """k, the odd side of a target's patch in cells of a map of the test image: its usual side in the test crop over the stride.

    k = ceil(58 * (size / 288) * (5 / area_factor) / stride), made odd by adding 1; at 288 and factor 5: 29, 15, 9, 5 for strides
    2, 4, 8, 16. The patch itself is pooled from the ref image, whatever the size there: it is compared with the test image.
    """
    side = _PUBLISHED_TARGET * test.size / (Fraction(test.area_factor).limit_denominator(10**6) * stride)
    cells = -(-side.numerator // side.denominator)
    return cells + 1 - cells % 2
