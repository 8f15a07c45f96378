"""The cache that is tortured without any network: numbers that follow from the number of their part."""

from __future__ import annotations

import numpy as np

from cache import Array, Cache, PairSetSpec, TargetSpec
from cache.address import Location
from cache.backends import open_place

COUNT, PART = 40, 8
MAPS = (Array("plain", (2, 6, 6), "float16", "numbers"), Array("packed", (2, 6, 6), "float16", "numbers of few bits", True))
TARGET = TargetSpec("maps", {"version": 1}, MAPS, {"projection": np.eye(3, dtype="float32")})
SPEC = PairSetSpec(
    {"dataset": "torture", "split": "train"}, COUNT, [Array("box", (4,), "float32", "pixels")], 2000, PART, 4, {"sequences": ["a"]}
)


def create(path: Location) -> Cache:
    """The empty cache, or the one that is there, mended in what its description says."""
    cache = Cache.create(path, SPEC)
    cache.add_target("teacher", {"sha256": "ab" * 32}, TARGET)
    return cache


def write(cache: Cache, part: int) -> None:
    """Writes what the part lacks: numbers that follow from its own."""
    start, stop = cache.bounds(part)
    for unit in cache.units().values():
        if not unit.published(part):
            rows = {
                name: np.random.default_rng([part, len(name)]).integers(8, 16, (stop - start, *array.shape)).astype("float32")
                for name, array in unit.arrays.items()
            }
            draw = np.random.default_rng(part)
            crops = [(b"\xff\xd8" + draw.bytes(300), b"\xff\xd8" + draw.bytes(500)) for _ in range(start, stop)]
            unit.write(part, rows, crops if unit is cache.pairs else None, {"device": "cpu", "batch": 8})


def lacking(cache: Cache) -> list[int]:
    """Parts that some unit lacks."""
    return sorted({part for unit in cache.units().values() for part in unit.missing()})


def tree(path: Location) -> dict[str, bytes]:
    """Every file of a cache."""
    place = open_place(path)
    return {key: place.get(key) for key, _ in place.walk()}
