"""Copying a cache to another backend or place, part by part: interrupted, it goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable

from cache.store import Cache
from cache.unit import Unit
from configs.errors import RunError


def export(
    cache: Cache, out: str | os.PathLike[str], progress: Callable[[str], None] = lambda line: None, *, history: bool = True
) -> Cache:
    """Copies all published parts to `out` (a .h5 path: HDF5; else a zarr directory) and returns the copy.

    Each part is checked against its ledger entry before it is copied (RunError). A zarr cache that went to HDF5 and back is
    the same byte by byte. Called again, it copies what is missing; RequestError if `out` is another cache.
    """
    remedy = "name another place for the copy"
    arrays, bound = list(cache.pairs.arrays.values()), cache.backend.attributes("crops")["bytes_bound"]
    copy = Cache.create(
        out,
        cache.identity,
        cache.count,
        crop_bytes_bound=bound,
        arrays=arrays,
        part=cache.part,
        chunk=cache.chunk,
        metadata=cache.metadata,
        remedy=remedy,
    )
    _copy(cache, cache.pairs, copy.pairs, progress)
    teachers = cache.teachers()
    for (teacher, target), unit in cache.targets().items():
        own, arrays = teachers[teacher], list(unit.arrays.values())
        added = copy.add_target(teacher, target, own, unit.identity, arrays, unit.constants, about=unit.about, remedy=remedy)
        _copy(cache, unit, added, progress)
    if history and not copy.history():
        for record in cache.history():
            copy.add_history(record)
    return copy


def _copy(cache: Cache, unit: Unit, copy: Unit, progress: Callable[[str], None]) -> None:
    wanted = set(copy.missing())
    for part, entry in unit.entries().items():
        if part not in wanted:
            continue
        for stored in unit.stored:
            if wrong := cache.backend.fault(stored, part, entry["arrays"][stored.path]):
                raise RunError(
                    f"{stored.path}, part {part}: expected sound bytes to copy, found {wrong}; see `python -m cache verify {cache.path}`"
                )
        start, stop = cache.bounds(part)
        crops = None
        if unit is cache.pairs:
            crops = [(ref.tobytes(), test.tobytes()) for ref, test in zip(*cache.read_crops(start, stop), strict=True)]
        copy.write(part, unit.read(start, stop), crops)
        progress(f"{unit.path}: part {part + 1} of {cache.parts}")
