"""From a frame and a target to the crop that a network sees, and back. Imports no torch.

Frames and crops are (H, W, 3) uint8. Boxes are (x, y, w, h), top-left corner; in a frame the pixel j covers j ... j + 1, in a crop it is
centred at j (`pairs.geometry`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from configs.schema import ImageConfig
from pairs.crops import cut


@dataclass(frozen=True)
class Patch:
    """A square crop and where it lies: frame position = origin + scale * crop position, on each axis."""

    image: np.ndarray
    """(S, S, 3) uint8"""
    origin: np.ndarray
    """(2,) x, y of crop position 0 in the frame"""
    scale: float
    """frame pixels in one pixel of the crop"""

    def to_crop(self, box: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) of the frame in crop pixels."""
        return np.concatenate([(box[..., :2] - self.origin) / self.scale, box[..., 2:] / self.scale], axis=-1)

    def to_frame(self, box: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) of the crop in frame pixels."""
        return np.concatenate([self.origin + box[..., :2] * self.scale, box[..., 2:] * self.scale], axis=-1)


def cut_patch(frame: np.ndarray, box: np.ndarray, size: int, area_factor: float, reading: Literal["resize", "subsample"]) -> Patch:
    """The crop around a box (4,) in frame pixels: its side is area_factor * sqrt(w * h), resized to `size`.

    subsample: of a crop at least twice as large as `size` every n-th pixel is read first, n = max(int(side / size - 0.1), 1), not smoothed.
    FrameError as `pairs.crops.cut`.
    """
    center, sides = box[:2] + box[2:] / 2, box[2:]
    step = max(int(math.sqrt(sides.prod()) * area_factor / size - 0.1), 1) if reading == "subsample" else 1
    # the centre pixel is one of those that are read
    offset = np.floor(center).astype(int) % step
    image = ImageConfig(size=size, area_factor=area_factor)
    place = (center - offset - 0.5) / step + 0.5
    crop, (x1, y1, side) = cut(frame[offset[1] :: step, offset[0] :: step], tuple(place), tuple(sides / step), image)
    corner = np.array([x1, y1]) + 0.5 * side / size - 0.5
    return Patch(crop, corner * step + offset + 0.5, side / size * step)
