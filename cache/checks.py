"""What is written is checked before it is stored: names, shapes, dtypes, finite numbers within the stored type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.arrays import Array
from configs.errors import RunError


class UnfitNumber(RunError):
    """A number that is not finite or does not fit the stored type; `fact` says which, without a remedy."""

    def __init__(self, fact: str) -> None:
        super().__init__(f"{fact}; mend the source of this pair")
        self.fact = fact


def checked_arrays(unit: str, arrays: Sequence[Array], given: Mapping[str, Any], start: int, rows: int) -> dict[str, np.ndarray]:
    """The given arrays cast to their stored dtypes.

    `given` maps every array's name to (rows, *shape); `start` is the pair that row 0 is. RunError that names array
    and pair for wrong names, shapes, dtypes, and (`UnfitNumber`) for numbers that are not finite or do not fit the stored type.
    """
    wanted = {array.name for array in arrays}
    if wanted != set(given):
        raise RunError(f"{unit}: expected arrays {sorted(wanted)}, found {sorted(given)}; pass each of them once")
    return {array.name: _checked(f"{unit}/{array.name}", array, np.asarray(given[array.name]), start, rows) for array in arrays}


def _checked(path: str, array: Array, value: np.ndarray, start: int, rows: int) -> np.ndarray:
    shape, dtype = (rows, *array.shape), np.dtype(array.dtype).newbyteorder("<")
    if value.shape != shape:
        raise RunError(f"{path}: expected shape {shape} (pairs {start}-{start + rows - 1}), found {value.shape}; pass one row a pair")
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "f"}[dtype.kind]
    if value.dtype.kind not in kinds:
        raise RunError(f"{path}: expected numbers that cast to {dtype}, found {value.dtype}; convert them before writing")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = value.astype(dtype, copy=False)
    good = np.isfinite(stored) if dtype.kind == "f" else stored == value
    if not good.all():
        at = np.unravel_index(int(np.argmin(good)), good.shape)
        kind = f"finite numbers within {dtype} (+-{np.finfo(dtype).max:g})" if dtype.kind == "f" else f"numbers within {dtype}"
        raise UnfitNumber(f"{path}, pair {start + int(at[0])}: expected {kind}, found {value[at]} at {tuple(int(i) for i in at[1:])}")
    return np.ascontiguousarray(stored)


def packed_crops(crops: Sequence[tuple[bytes, bytes]], start: int, rows: int, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crops of a part end to end: (bytes,) uint8, (rows, 2) int64 offsets from its beginning, (rows, 2) int32 lengths.

    RunError for a wrong count, for what is no JPEG file and for a part beyond its `room` (bytes).
    """
    if len(crops) != rows:
        raise RunError(f"crops: expected {rows} pairs (from pair {start}), found {len(crops)}; pass (ref, test) for each pair")
    for row, images in enumerate(crops):
        if len(images) != 2:
            raise RunError(f"crops, pair {start + row}: expected (ref, test), found {len(images)} images; pass two")
        for name, image in zip(("ref", "test"), images, strict=True):
            if bytes(image[:2]) != b"\xff\xd8":
                raise RunError(
                    f"crops, pair {start + row}: expected a JPEG file as {name} crop, found {len(image)} other bytes; encode it as JPEG"
                )
    length = np.array([[len(ref), len(test)] for ref, test in crops], dtype="<i4")
    ends = np.cumsum(length.reshape(-1), dtype="<i8")
    if ends[-1] > room:
        raise RunError(
            f"crops of pairs {start}-{start + rows - 1}: expected at most {room} bytes, found {int(ends[-1])};"
            " create the cache with a larger crop_bytes_bound"
        )
    offset = (ends - length.reshape(-1)).reshape(rows, 2)
    return np.frombuffer(b"".join(bytes(image) for pair in crops for image in pair), np.uint8), offset, length
