"""Copying a cache: to another zarr directory, part by part, or to one HDF5 file, whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.address import Location, location
from cache.backends import is_cache, is_hdf5, open_place
from cache.backends.base import Part, writable
from cache.identity import diff
from cache.layout import Group, pair_groups, target_group, teacher_group
from cache.store import Cache
from configs.errors import RequestError, RunError
from configs.machine import require_place


def export(cache: Cache, out: str | Location, progress: Callable[[str], None] = lambda line: None) -> Cache:
    """Copies all published parts to `out` (a .h5 path: HDF5; else a zarr directory) and returns the copy.

    Each part is checked against its ledger entry before it is copied (RunError). A zarr cache that went to HDF5 and back is
    the same byte by byte. A directory that lacks parts gets them, so that an interrupted copy goes on; a file is written whole
    or not at all. RequestError if `out` is another cache, or a file that is no whole copy of this one.
    """
    out = location(out)
    if isinstance(out, Path) and not out.exists():
        require_place(out.parent, "the copy")
    if not (isinstance(out, Path) and is_hdf5(out)):
        return _to_directory(cache, out, progress)
    if out.exists():
        _require_copy(cache, out)
        progress(f"{out}: already there, a copy that lacks nothing")
    else:
        from cache.backends.hdf5 import write_copy  # h5py is only needed here

        write_copy(out, _groups(cache), _sound_parts(cache, {}, progress), cache.history())
    return Cache.open(out)


def _to_directory(cache: Cache, out: Location, progress: Callable[[str], None]) -> Cache:
    remedy, teachers = "name another place for the copy", cache.teachers()
    open_place(out).sweep()  # what killed copies have left
    copy = Cache.create(out, cache.spec, remedy=remedy)
    writer = writable(copy.backend)
    for (teacher, _), unit in cache.targets().items():
        copy.add_target(teacher, teachers[teacher], unit.spec, remedy=remedy)
    there = {path: unit.entries() for path, unit in copy.units().items()}
    for part in _sound_parts(cache, there, progress):
        writer.publish(part)
    if not copy.history():
        for record in cache.history():
            writer.add_history(record)
    return copy


def _require_copy(cache: Cache, out: Path) -> None:
    """RequestError unless there is a copy of this cache at `out` that lacks no unit and no part."""
    if not is_cache(out):
        raise RequestError(f"{out}: expected a free name or a copy of {cache.path}, found a file that is no cache; name another file")

    def content(cache: Cache) -> dict[str, Any]:
        units = {path: {"fingerprint": unit.fingerprint, "parts": len(unit.entries())} for path, unit in cache.units().items()}
        return {"identity": cache.identity, "pairs": cache.count, **units}

    if lines := diff(content(Cache.open(out)), content(cache)):
        raise RequestError(
            f"{out}: expected a free name or a whole copy of {cache.path}, found another file ({'; '.join(lines)});"
            " name another file, or remove that one first"
        )


def _groups(cache: Cache) -> Iterator[Group]:
    yield from pair_groups(cache.spec)
    teachers = {name: teacher_group(name, identity) for name, identity in cache.teachers().items()}
    yield from teachers.values()
    for (teacher, _), unit in cache.targets().items():
        yield target_group(teachers[teacher], unit.spec, cache.grid, cache.fingerprint)


def _sound_parts(cache: Cache, there: Mapping[str, Collection[int]], progress: Callable[[str], None]) -> Iterator[Part]:
    """The published parts but those that are `there` (unit -> parts), each checked before it is read. RunError for one that is damaged."""
    for path, unit in cache.units().items():
        for number, entry in unit.entries().items():
            if number in there.get(path, ()):
                continue
            for placed in unit.placed:
                if wrong := cache.backend.fault(placed, number, entry["arrays"][placed.path]):
                    where = f"{placed.path}, part {number}"
                    raise RunError(f"{where}: expected sound bytes to copy, found {wrong}; see `python -m cache verify {cache.path}`")
            yield unit.read_part(number)
            progress(f"{path}: part {number + 1} of {cache.parts}")
