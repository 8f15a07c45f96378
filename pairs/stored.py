"""What is stored of a pair: the arrays of a pair set. Letters: N proposals. Image axis (2): 0 = ref, 1 = test."""

from __future__ import annotations

from configs.arrays import Array
from configs.schema import PairsConfig

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
