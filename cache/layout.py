"""What lies where in a cache, the same for every backend.

    /                              identity of the pair set, counts (attributes)
    pairs/<array>                  one row a pair
    crops/jpeg, offset, length     the encoded crops: jpeg[offset[i, k] : offset[i, k] + length[i, k]], k = 0 ref, 1 test
    targets/<teacher>              identity of the teacher (attributes)
    targets/<teacher>/<target>/<array>            one row a pair
    targets/<teacher>/<target>/constants/<name>   arrays that belong to the target as a whole
    ledger/<unit>/<part>           what is published; a unit is `pairs` (with its crops) or `targets/<teacher>/<target>`

A part is `part` pairs: one shard of every array, and the unit of writing, checking and resuming. The bytes of a part's
crops lie contiguous from the beginning of its shard, in the order ref 0, test 0, ref 1, test 1, ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from configs.errors import RequestError, nearest
from configs.files import fingerprint

LAYOUT = 1  # version of this layout, part of every fingerprint
JPEG_CHUNK = 1 << 20  # bytes; inner chunk of crops/jpeg
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = {"constants", "attributes", "c", "zarr.json"}

DOCS = {
    "": "TeachOnce cache: pairs of image crops and what a teacher network says of them. Row i of every array is pair i."
    " Only parts with an entry below ledger/ exist; `python -m cache info` and `verify` look at and check this cache.",
    "pairs": "How each pair was drawn and cut; image axis: 0 ref, 1 test; boxes (x, y, w, h), top-left corner, crop pixels.",
    "crops": "Encoded crops. Image k (0 ref, 1 test) of pair i is the JPEG file jpeg[offset[i, k] : offset[i, k] + length[i, k]].",
    "targets": "Teacher outputs: targets/<teacher>/<target>/<array>, one row a pair.",
    "ledger": "No numbers here: the files <unit>/<part>.json beside this one publish the parts, with the SHA-256 of every shard;"
    " history.jsonl records the work.",
}


class Array(NamedTuple):
    """One array of a unit: `shape` is that of one pair, `doc` says what it holds and in which units."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    doc: str
    compress: bool = False

    def described(self) -> dict[str, Any]:
        """As it is kept in the attributes of the unit."""
        return {**self._asdict(), "shape": list(self.shape)}


def arrays_of(described: Sequence[Mapping[str, Any]]) -> list[Array]:
    """The inverse of `Array.described`."""
    return [Array(**{**item, "shape": tuple(item["shape"])}) for item in described]


@dataclass(frozen=True)
class Stored:
    """One array as a backend stores it: `rows` rows of `shape`; part p is rows [p * part_rows, (p + 1) * part_rows)."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    doc: str
    compress: bool
    rows: int
    part_rows: int
    chunk_rows: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Group:
    """One group to be created: attributes, arrays, constants (small arrays written at once)."""

    path: str
    attributes: dict[str, Any]
    arrays: tuple[Stored, ...] = ()
    constants: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Geometry:
    """How pairs fall into parts and chunks."""

    count: int
    part: int
    chunk: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RequestError(f"count: expected at least 1 pair, found {self.count}; ask for more pairs")
        if self.chunk < 1 or self.part < 1 or self.part % self.chunk:
            raise RequestError(f"part: expected a multiple of chunk ({self.chunk}), found {self.part}; choose part = k * chunk")

    @property
    def parts(self) -> int:
        """Number of parts; the last may be partial."""
        return -(-self.count // self.part)

    def bounds(self, part: int) -> tuple[int, int]:
        """Pairs [start, stop) of a part."""
        if not 0 <= part < self.parts:
            raise RequestError(f"part: expected 0 to {self.parts - 1}, found {part}; see `python -m cache info`")
        return part * self.part, min((part + 1) * self.part, self.count)

    def stored(self, unit: str, array: Array) -> Stored:
        """A plain array (one row a pair) of the unit or group."""
        little = np.dtype(array.dtype).newbyteorder("<")
        return Stored(f"{unit}/{array.name}", array.shape, little, array.doc, array.compress, self.count, self.part, self.chunk)

    def crops(self, bytes_bound: int) -> tuple[Stored, Stored, Stored]:
        """crops/jpeg, crops/offset, crops/length; `bytes_bound` bounds the mean bytes a pair within any part."""
        room = -(-self.part * bytes_bound // JPEG_CHUNK) * JPEG_CHUNK
        jpeg = Stored(
            "crops/jpeg",
            (),
            np.dtype("u1"),
            "JPEG bytes, part after part; unused room is not stored",
            False,
            self.parts * room,
            room,
            JPEG_CHUNK,
        )
        offset = Array("offset", (2,), "int64", "first byte in crops/jpeg, of the ref and the test crop")
        length = Array("length", (2,), "int32", "bytes of the ref and the test crop")
        return jpeg, self.stored("crops", offset), self.stored("crops", length)


def check_name(name: str, what: str) -> str:
    """RequestError unless `name` can name a group or an array."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise RequestError(
            f"{what}: expected letters, digits, '.', '_', '-' (and none of {sorted(_RESERVED)}), found {name!r}; choose another name"
        )
    return name


def check_arrays(arrays: Sequence[Array], what: str) -> None:
    """RequestError unless names are good and single and dtypes are plain numbers."""
    names = [check_name(array.name, f"array of {what}") for array in arrays]
    if not names or len(set(names)) < len(names):
        raise RequestError(f"{what}: expected arrays of different names, found {names}; name each once")
    for array in arrays:
        if np.dtype(array.dtype).kind not in "biuf":
            raise RequestError(
                f"{what}/{array.name}: expected a dtype of bool, integers or floats, found {array.dtype}; store numbers only"
            )


def sealed(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes with a `seal` over all of them, so that `verify` finds a changed one."""
    return {**attributes, "seal": fingerprint(attributes)}


def unsealed(attributes: Mapping[str, Any]) -> bool:
    """Whether the seal does not fit the other attributes."""
    return fingerprint({key: value for key, value in attributes.items() if key != "seal"}) != attributes.get("seal")


def pick(known: Mapping[str, Any], names: Sequence[str] | None, what: str) -> list[str]:
    """The asked names, all of them by default; RequestError for one that is unknown."""
    for name in names or ():
        if name not in known:
            raise RequestError(
                f"{what}: expected one of {sorted(known)}, found {name!r}{nearest(name, known)}; ask for an array that is there"
            )
    return list(known if names is None else names)
