"""A batch of pairs on a device: images, boxes, and what the teacher says of them.

Letters: B pairs, N proposals a pair, S side of a crop. Boxes (x, y, w, h), top-left corner, in crop pixels, float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from configs.schema import ImageConfig


@dataclass
class Boxes:
    """Boxes of one batch, all on one device, and the geometry of the crops that they lie in."""

    ref_box: Tensor
    """(B, 4) the target in the ref image"""
    test_box: Tensor
    """(B, 4) the target in the test image"""
    proposals: Tensor
    """(B, N, 4) proposals in the test image"""
    ref: ImageConfig
    test: ImageConfig

    def __len__(self) -> int:
        return len(self.ref_box)

    def take(self, rows: slice) -> Boxes:
        """Those of some pairs."""
        return Boxes(self.ref_box[rows], self.test_box[rows], self.proposals[rows], self.ref, self.test)


@dataclass
class Batch:
    """One step's data on the device."""

    ref: Tensor
    """(B, 3, S, S) normalised, S of the ref image"""
    test: Tensor
    """(B, 3, S, S) normalised, S of the test image"""
    boxes: Boxes
    targets: dict[str, Tensor]
    """"target/array" -> (B, ...) float32; only what was asked of the cache, of a fresh batch only what belongs to it all the same"""
    fresh: bool
    source: np.ndarray
    """(B,) which cache"""
    pair: np.ndarray
    """(B,) which pair of it"""
