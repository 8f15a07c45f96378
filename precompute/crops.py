"""From the frames of a pair to its two encoded crops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from configs.schema import PairsConfig
from pairs.crops import cut, encode
from pairs.frames import FrameError
from precompute.datasets import FrameSource
from precompute.sampling import DrawnPairs


class PairCrops(NamedTuple):
    """ref, test: JPEG bytes; region (2, 3) int32: (x1, y1, side) of each crop in frame pixels."""

    ref: bytes
    test: bytes
    region: np.ndarray


def make_pair(source: FrameSource, rows: DrawnPairs, row: int, pairs: PairsConfig) -> PairCrops:
    """Both crops of one row of a pair set; a frame used twice is read once.

    FrameError: a frame that cannot be read or a crop that cannot be cut; the message names the file.
    """
    sequence, frames = int(rows.sequence[row]), rows.frame[row].tolist()
    loaded: list[np.ndarray] = []
    crops, regions = [], []
    for index, (frame, image) in enumerate(zip(frames, pairs.images, strict=True)):
        same = index == 1 and frame == frames[0] and source.numbers == 0
        loaded.append(loaded[0] if same else source.load(sequence, frame, rows.random[row, index]))
        try:
            crop, region = cut(loaded[index], tuple(rows.center[row, index].tolist()), tuple(rows.size[row, index].tolist()), image)
        except FrameError as error:
            raise FrameError(f"{source.path(sequence, frame)}: {error}") from error
        crops.append(encode(crop, pairs.jpeg_quality))
        regions.append(region)
    return PairCrops(crops[0], crops[1], np.array(regions, np.int32))


def pair_or_fault(source: FrameSource, rows: DrawnPairs, row: int, pairs: PairsConfig) -> PairCrops | FrameError:
    """As `make_pair`, the error in the place of the crops that cannot be made."""
    try:
        return make_pair(source, rows, row, pairs)
    except FrameError as error:
        return error
