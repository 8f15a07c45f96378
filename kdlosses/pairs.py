"""What every loss knows about a batch beside features: the boxes of its pairs.

Letters: B pairs, N proposals a pair. Boxes (x, y, w, h), top-left corner, in crop pixels, float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Pairs:
    """Boxes of one batch, all on one device."""

    ref_box: Tensor
    """(B, 4) the target in the ref image"""
    test_box: Tensor
    """(B, 4) the target in the test image"""
    proposals: Tensor
    """(B, N, 4) proposals in the test image"""
    crop_size: int
    """side of both crops, in pixels"""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pairs:
        """The same boxes on `device`."""
        ref, test, proposals = (box.to(device, non_blocking=non_blocking) for box in (self.ref_box, self.test_box, self.proposals))
        return Pairs(ref, test, proposals, self.crop_size)
