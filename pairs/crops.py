"""From a frame to the crop around a box. Imports no torch.

Frames and crops are (H, W, 3) uint8, BGR. The frame's pixels x1 ... x1 + side - 1 are the crop's columns, likewise rows.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from configs.schema import ImageConfig
from pairs.frames import FrameError

# INTER_LINEAR reads the source at most this far: cv2.resize itself refuses sides of 2**15 and more
_LARGEST_SIDE = 2**15 - 1


def cut(
    frame: np.ndarray, center: tuple[float, float], sides: tuple[float, float], image: ImageConfig
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The square crop centred on a box with that centre (x, y) and those sides (w, h); and its region (x1, y1, side) in frame pixels.

    side = ceil(sqrt(w * h) * area_factor), x1 = round half to even(cx - side / 2); outside the frame the border is replicated, on the right
    and bottom one pixel earlier than needed (as in the public code); resized bilinearly to (S, S, 3), S = image.size. Only the part
    inside the frame is padded.

    Raises:
        FrameError: side < 1 or beyond 32,767, or no pixel of the area inside the frame.
    """
    (cx, cy), (w, h) = center, sides
    area = math.sqrt(w * h) * image.area_factor if w > 0 and h > 0 else 0.0
    side = math.ceil(area) if math.isfinite(area + cx + cy) else 0
    if not 1 <= side <= _LARGEST_SIDE:
        raise FrameError(f"expected a crop of 1 to {_LARGEST_SIDE} pixels, found {area:g} for a box of {w:g} x {h:g}; check its annotation")
    x1, y1 = round(cx - side / 2), round(cy - side / 2)
    height, width = frame.shape[:2]
    left, right = max(0, -x1), max(0, x1 + side - width + 1)
    top, bottom = max(0, -y1), max(0, y1 + side - height + 1)
    if left + right >= side or top + bottom >= side:
        raise FrameError(
            f"expected a crop that meets the frame of {width} x {height}, found x {x1} to {x1 + side}, y {y1} to {y1 + side};"
            " check the annotation"
        )
    inside = frame[y1 + top : y1 + side - bottom, x1 + left : x1 + side - right]
    if left or right or top or bottom:
        inside = cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return cv2.resize(inside, (image.size, image.size), interpolation=cv2.INTER_LINEAR), (x1, y1, side)


def encode(crop: np.ndarray, quality: int) -> bytes:
    """The crop as a JPEG (4:2:0)."""
    done, content = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise FrameError(f"expected the crop to encode as JPEG, found it refused (shape {crop.shape}); check the OpenCV build")
    return content.tobytes()
