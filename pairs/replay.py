"""From stored rows of a pair set back to a batch: input of a decoder, and boxes on a device.

Letters: n pairs, N proposals. Image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from configs.schema import PairsConfig
from pairs import photometry
from pairs.batch import Boxes
from pairs.decode.decoder import Crops
from pairs.photometry import Photometry
from pairs.stored import BOXES


def crops_of(
    rows: Mapping[str, np.ndarray], ref: Sequence[np.ndarray], test: Sequence[np.ndarray], look: Photometry | None = None
) -> Crops:
    """Input of a decoder from n stored rows and their encoded crops; look: instead of the recorded photometry."""
    return Crops(list(ref), list(test), photometry.recorded(rows) if look is None else look)


def boxes_of(rows: Mapping[str, np.ndarray | Tensor], pairs: PairsConfig, device: torch.device) -> Boxes:
    """The boxes of n stored rows on a device; rows may be `pinned` already."""
    ref_box, test_box, proposals = (to_device(rows[name], device) for name in BOXES)
    return Boxes(ref_box, test_box, proposals, pairs.ref, pairs.test)


def pinned(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor from which a copy to that device need not be waited for: of a GPU, in pinned memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """An array, or what `pinned` made of one, on a device; nothing waits."""
    return (array if isinstance(array, Tensor) else pinned(array, device)).to(device, non_blocking=True)
