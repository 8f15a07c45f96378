"""Stored rows of a pair set, and what becomes of them again: input of a decoder, and boxes on a device.

Letters: n pairs, N proposals. Image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from configs.arrays import Array
from configs.schema import PairsConfig
from pairs import photometry
from pairs.batch import Boxes
from pairs.decode.decoder import Crops
from pairs.photometry import Photometry

BOXES = ("ref_box", "test_box", "proposals")
ROWS = (*BOXES, "brightness", "grey")
"""What has to be read of a pair set to see its pairs again."""


def pair_arrays(pairs: PairsConfig) -> tuple[Array, ...]:
    """The arrays of a pair set (crops aside)."""
    return (
        Array("sequence", (), "int32", "index of the sequence in the cache's list of sequences"),
        Array("frame", (2,), "int32", "frame numbers of (ref, test), from 0"),
        Array("attempt", (), "uint8", "how often the pair was drawn anew because a frame could not be used"),
        Array("ref_box", (4,), "float32", "annotated box (x, y, w, h) in the ref crop, pixels"),
        Array("test_box", (4,), "float32", "annotated box (x, y, w, h) in the test crop, pixels"),
        Array("proposals", (pairs.proposals, 4), "float32", "proposals (x, y, w, h) in the test crop, pixels"),
        Array("brightness", (2,), "float32", "brightness factors of (ref, test)"),
        Array("grey", (), "bool", "both images of the pair are grey"),
        Array("crop_region", (2, 3), "int32", "(x1, y1, side) of the (ref, test) crop in its frame, pixels"),
    )


def crop_bytes_bound(pairs: PairsConfig) -> int:
    """Bytes that the encoded crops of a pair stay below: a raw crop bounds an encoded one."""
    return sum(3 * image.size**2 + 4096 for image in pairs.images)


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
