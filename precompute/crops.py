"""From the frames of a pair to its two encoded crops. Imports no torch: worker processes start fast.

Frames and crops are (H, W, 3) uint8, BGR. The frame's pixels x1 ... x1 + side - 1 are the crop's columns, likewise rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from precompute.frames import FrameError, read_frame

if TYPE_CHECKING:
    from configs.schema import Pairs
    from precompute.datasets import Source
    from precompute.sampling import PairSet

__all__ = ["CropSpec", "FrameError", "PairCrops", "build_crops", "cut", "encode", "make_pair", "read_frame"]

# INTER_LINEAR reads the source at most this far: cv2.resize itself refuses sides of 2**15 and more
_LARGEST_SIDE = 2**15 - 1


class CropSpec(NamedTuple):
    """The crop's share of `configs.schema.Pairs`, picklable and cheap to send."""

    size: int  # side of the stored crop in pixels
    factor: float  # side of the area cut out, in sqrt(w * h) of the box it is centred on
    quality: int  # JPEG quality

    @classmethod
    def of(cls, pairs: Pairs) -> CropSpec:
        """From the schema."""
        return cls(pairs.crop_size, pairs.search_area_factor, pairs.jpeg_quality)


class PairCrops(NamedTuple):
    """ref, test: JPEG bytes; region (2, 3) int32: (x1, y1, side) of each crop in frame pixels."""

    ref: bytes
    test: bytes
    region: np.ndarray


def cut(frame: np.ndarray, cx: float, cy: float, w: float, h: float, factor: float, size: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The square crop centred on a box with centre (cx, cy) and sides w, h; and its region (x1, y1, side) in frame pixels.

    side = ceil(sqrt(w * h) * factor), x1 = round half to even(cx - side / 2); outside the frame the border is replicated, on the right and
    bottom one pixel earlier than needed (as in the public code); resized bilinearly to (size, size, 3). Only the part inside
    the frame is padded.

    Raises:
        FrameError: side < 1 or beyond 32,767, or no pixel of the area inside the frame.
    """
    area = math.sqrt(w * h) * factor if w > 0 and h > 0 else 0.0
    side = math.ceil(area) if math.isfinite(area) else 0
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
    return cv2.resize(inside, (size, size), interpolation=cv2.INTER_LINEAR), (x1, y1, side)


def encode(crop: np.ndarray, quality: int) -> bytes:
    """The crop as a JPEG (4:2:0)."""
    done, content = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise FrameError(f"expected the crop to encode as JPEG, found it refused (shape {crop.shape}); check the OpenCV build")
    return content.tobytes()


def make_pair(source: Source, rows: PairSet, row: int, spec: CropSpec) -> PairCrops:
    """Both crops of one row of a pair set; a frame used twice is read once.

    FrameError: a frame that cannot be read or a crop that cannot be cut; the message names the file.
    """
    sequence, frames = int(rows.sequence[row]), rows.frame[row].tolist()
    loaded: list[np.ndarray] = []
    crops, regions = [], []
    for image, frame in enumerate(frames):
        same = image == 1 and frame == frames[0] and source.numbers == 0
        loaded.append(loaded[0] if same else source.load(sequence, frame, rows.random[row, image]))
        (cx, cy), (w, h) = rows.center[row, image].tolist(), rows.size[row, image].tolist()
        try:
            crop, region = cut(loaded[image], cx, cy, w, h, spec.factor, spec.size)
        except FrameError as error:
            raise FrameError(f"{source.path(sequence, frame)}: {error}") from error
        crops.append(encode(crop, spec.quality))
        regions.append(region)
    return PairCrops(crops[0], crops[1], np.array(regions, np.int32))


def build_crops(source: Source, rows: PairSet, spec: CropSpec, which: Iterable[int] | None = None) -> list[PairCrops | FrameError]:
    """Crops of the rows of a pair set (`which`: of some), a `FrameError` in the place of each pair that cannot be made.

    source: `Dataset.source`, small beside the data set. Top level and picklable throughout: for threads and for process pools.
    """
    results: list[PairCrops | FrameError] = []
    for row in range(len(rows)) if which is None else which:
        try:
            results.append(make_pair(source, rows, row, spec))
        except FrameError as error:
            results.append(error)
    return results
