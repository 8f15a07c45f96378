"""What lies where in a cache, the same for every backend.

    /                              identity of the pair set, counts (attributes)
    pairs/<array>                  one row a pair
    crops/jpeg, offset, length     the encoded crops: jpeg[offset[i, k] : offset[i, k] + length[i, k]], k = 0 ref, 1 test
    targets/<teacher>              identity of the teacher (attributes)
    targets/<teacher>/<target>/<array>            one row a pair
    targets/<teacher>/<target>/constants/<name>   arrays that belong to the target as a whole
    ledger/<unit>/<part>           what is published; a unit is `pairs` (with its crops) or `targets/<teacher>/<target>`
    ledger/history/<number>        a record of work done

A part is `part` pairs: one shard of every array, and the unit of writing, checking and resuming. The bytes of a part's
crops lie contiguous from the beginning of its shard, in the order ref 0, test 0, ref 1, test 1, ...
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cache.identity import plain
from configs.arrays import Array, TargetSpec
from configs.errors import RequestError
from configs.files import fingerprint

LAYOUT = 2  # version of this layout, part of every fingerprint
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
    " history/ records the work, claims/ who is at it.",
}


@dataclass(frozen=True)
class Grid:
    """How the rows of an array (a pair's numbers, or one byte of the crops) fall into parts and chunks."""

    rows: int
    part: int
    chunk: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise RequestError(f"count: expected at least 1 pair, found {self.rows}; ask for more pairs")
        if self.chunk < 1 or self.part < 1 or self.part % self.chunk:
            raise RequestError(f"part: expected a multiple of chunk ({self.chunk}), found {self.part}; choose part = k * chunk")

    @property
    def parts(self) -> int:
        """Number of parts; the last may be partial."""
        return -(-self.rows // self.part)

    def bounds(self, part: int) -> tuple[int, int]:
        """Rows [start, stop) of a part."""
        if not 0 <= part < self.parts:
            raise RequestError(f"part: expected 0 to {self.parts - 1}, found {part}; see `python -m cache info`")
        return part * self.part, min((part + 1) * self.part, self.rows)


@dataclass(frozen=True)
class Placed:
    """An array in its place: the group that it lies in, and how its rows fall into parts and chunks."""

    group: str
    array: Array
    grid: Grid

    @property
    def path(self) -> str:
        """Within the cache."""
        return f"{self.group}/{self.array.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (self.grid.rows, *self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As it is stored, on whatever machine."""
        return np.dtype(self.array.dtype).newbyteorder("<")


@dataclass(frozen=True)
class Group:
    """One group to be created: attributes, arrays, constants (small arrays written at once)."""

    path: str
    attributes: dict[str, Any]
    arrays: tuple[Placed, ...] = ()
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)

    def paths(self) -> set[str]:
        """Of the group and of the arrays and constants that its attributes describe."""
        constants = {f"{self.path}/constants/{name}" for name in self.attributes.get("constants", {})}
        folder = {f"{self.path}/constants"} if constants else set()
        return {self.path, *(placed.path for placed in self.arrays), *folder, *constants}


@dataclass(frozen=True)
class PairSetSpec:
    """A pair set, as `Cache.create` is asked for it."""

    identity: Mapping[str, Any]
    """everything that changes a stored number of it"""
    count: int
    """pairs"""
    arrays: Sequence[Array]
    crop_bytes_bound: int
    """bounds the mean bytes of a pair's two encoded crops within any part"""
    part: int = 1024
    """pairs of a part: the unit of writing, checking and resuming"""
    chunk: int = 64
    """pairs that are read at once"""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """what belongs to it and is no part of its identity (say, the names of sequences)"""


def pair_groups(spec: PairSetSpec) -> list[Group]:
    """The groups of a cache without targets, the root first. RequestError for what cannot be stored so."""
    grid = Grid(spec.count, spec.part, spec.chunk)
    check_arrays(spec.arrays, "pairs")
    if spec.crop_bytes_bound < 1:
        raise RequestError(
            f"crop_bytes_bound: expected at least 1 byte a pair, found {spec.crop_bytes_bound}; pass what a pair's crops take"
        )
    own = _with_fingerprint(spec.identity)
    root = {"doc": DOCS[""], "teachonce_cache": LAYOUT, "count": spec.count, "part": spec.part, "chunk": spec.chunk, **own}
    pairs = {"doc": DOCS["pairs"], **own, "arrays": _described(spec.arrays), "metadata": plain(spec.metadata)}
    bound = {"doc": DOCS["crops"], "bytes_bound": spec.crop_bytes_bound}
    return [
        Group("", sealed(root)),
        Group("pairs", sealed(pairs), tuple(Placed("pairs", array, grid) for array in spec.arrays)),
        Group("crops", sealed(bound), crop_arrays(grid, spec.crop_bytes_bound)),
        Group("targets", sealed({"doc": DOCS["targets"]})),
    ]


def teacher_group(teacher: str, identity: Mapping[str, Any]) -> Group:
    """The group of a teacher without targets. RequestError for a name that cannot be one."""
    path = f"targets/{check_name(teacher, 'teacher')}"
    return Group(path, sealed({"doc": f"targets of the teacher {teacher}", **_with_fingerprint(identity)}))


def target_group(teacher: Group, target: TargetSpec, grid: Grid, pairs: str) -> Group:
    """The group of a target without rows; `pairs` is the fingerprint of the pair set. RequestError for what cannot be stored so."""
    path = f"{teacher.path}/{check_name(target.name, 'target')}"
    check_arrays(target.arrays, path)
    values = {check_name(name, f"constant of {path}"): np.ascontiguousarray(value) for name, value in target.constants.items()}
    facts = {"identity": plain(target.identity), "constants": {name: described_constant(value) for name, value in values.items()}}
    facts["arrays"] = _described(target.arrays)
    attributes = {
        "doc": f"target {target.name} of the teacher {teacher.path.removeprefix('targets/')}",
        **facts,
        "fingerprint": target_fingerprint(facts, teacher.attributes["identity"], pairs),
        **({"about": plain(target.about)} if target.about else {}),
    }
    return Group(path, sealed(attributes), tuple(Placed(path, array, grid) for array in target.arrays), values)


def target_fingerprint(attributes: Mapping[str, Any], teacher: Mapping[str, Any], pairs: str) -> str:
    """Of a target with these attributes; teacher: the identity of its teacher; pairs: the fingerprint of the pair set."""
    facts = {name: attributes[name] for name in ("identity", "constants")}
    return fingerprint({"layout": LAYOUT, "pairs": pairs, "teacher": teacher, **facts, "arrays": by_name(arrays_of(attributes["arrays"]))})


def _with_fingerprint(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"identity": plain(identity), "fingerprint": fingerprint({"layout": LAYOUT, "identity": plain(identity)})}


def crop_arrays(grid: Grid, bytes_bound: int) -> tuple[Placed, Placed, Placed]:
    """crops/jpeg, crops/offset, crops/length; `bytes_bound` bounds the mean bytes a pair within any part."""
    room = -(-grid.part * bytes_bound // JPEG_CHUNK) * JPEG_CHUNK
    jpeg = Array("jpeg", (), "uint8", "JPEG bytes, part after part; unused room is not stored")
    offset = Array("offset", (2,), "int64", "first byte in crops/jpeg, of the ref and the test crop")
    length = Array("length", (2,), "int32", "bytes of the ref and the test crop")
    bytes_grid = Grid(grid.parts * room, room, JPEG_CHUNK)
    return Placed("crops", jpeg, bytes_grid), Placed("crops", offset, grid), Placed("crops", length, grid)


def _described(arrays: Iterable[Array]) -> list[dict[str, Any]]:
    """Arrays as they are kept in the attributes of their unit."""
    return [{**asdict(array), "shape": list(array.shape)} for array in arrays]


def arrays_of(descriptions: Iterable[Mapping[str, Any]]) -> list[Array]:
    """The arrays that the attributes of a unit describe."""
    return [Array(**{**item, "shape": tuple(item["shape"])}) for item in descriptions]


def by_name(arrays: Iterable[Array]) -> dict[str, Any]:
    """What makes two arrays the same numbers: not their wording and not their compression."""
    return {array.name: {"shape": list(array.shape), "dtype": np.dtype(array.dtype).name} for array in arrays}


def described_constant(value: np.ndarray) -> dict[str, Any]:
    """What the identity keeps of a constant."""
    return {"shape": list(value.shape), "dtype": value.dtype.name, "sha256": sha256(np.ascontiguousarray(value))}


def sha256(blob: Any) -> str:
    """SHA-256 (hex) of bytes or of a contiguous array's bytes."""
    return hashlib.sha256(memoryview(blob).cast("B") if memoryview(blob).nbytes else b"").hexdigest()


def make_again(root: Mapping[str, Any]) -> str:
    """The `make cache ...` that makes the pair set with these root attributes, of whatever layout version, as far as they tell."""
    identity, count = root.get("identity"), root.get("count")
    dataset, split = (identity.get("dataset"), identity.get("split")) if isinstance(identity, Mapping) else (None, None)
    if not dataset or split not in ("train", "val"):
        return "make cache"
    return f"make cache DATASET={dataset} SPLIT={split} {'PAIRS' if split == 'train' else 'VAL_PAIRS'}={count}"


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


def history_text(record: Mapping[str, Any]) -> bytes:
    """A record of work as it is stored, with a checksum."""
    return (json.dumps({"record": record, "sha256": fingerprint(record)}, sort_keys=True, indent=1) + "\n").encode()


def history_record(text: bytes) -> dict[str, Any] | None:
    """The record that is stored as `text`; None if it is damaged."""
    try:
        record = json.loads(text)["record"]
        return record if isinstance(record, dict) and history_text(record) == text else None
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
