"""Checking a cache against its ledger: every byte, every description, and nothing else there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache.address import Location
from cache.backends import is_hdf5, open_backend
from cache.backends.base import Reader, Stray
from cache.layout import Group, unsealed
from cache.store import Cache
from cache.unit import Unit
from configs.errors import RequestError, TeachOnceError
from configs.machine import processors

_AGAIN = "run `make cache`, which writes it again"
UNFINISHED = ("unpublished remains of a part", "remains of an interrupted write")


class Fault(NamedTuple):
    """One thing that is wrong, where, and the command that mends it."""

    what: str
    where: str  # array, group or file
    unit: str | None
    part: int | None
    pairs: str | None  # "first-last"
    remedy: str

    def line(self) -> str:
        """The fault on one line."""
        place = "" if self.part is None else f", part {self.part} (pairs {self.pairs})"
        return f"{self.where}{place}: {self.what}; {self.remedy}"


def verify(cache: Cache, *, deep: bool = False) -> list[Fault]:
    """Everything that is wrong with a cache, in a fixed order; an empty list if it is whole and finished.

    Recomputes every checksum; `deep` also decodes every crop and looks for numbers that are not finite.
    """
    faults, units = _opened(cache)
    with ThreadPoolExecutor(processors()) as pool:
        for unit in units:
            faults += _unit_faults(cache, unit, deep, pool)
    for where, record in cache.backend.history_files():
        if record is None:
            faults.append(Fault("no sound record of work", where, None, None, None, f"run `python -m cache gc {cache.path} --damaged`"))
    # what lies in a target that cannot be read is no stranger
    known = {unit.path for unit in units}
    unread = tuple(f"{top}{path}/" for path in groups_of(cache) if _is_target(path) and path not in known for top in ("", "ledger/"))
    faults += [_stray_fault(cache, stray) for stray in strays(cache, units) if not stray.path.startswith(unread)]
    if not faults and (wrong := cache.backend.file_fault()):
        faults.append(Fault(wrong, "/", None, None, None, ""))
    return faults if cache.backend.kind == "zarr" else [fault._replace(remedy=cache.backend.mend) for fault in faults]


def verify_path(path: Location, *, deep: bool = False) -> list[Fault]:
    """The same of a cache that may be too damaged to be opened. RequestError if there is none."""
    try:
        return verify(Cache.open(path), deep=deep)
    except TeachOnceError as error:
        if isinstance(path, Path) and is_hdf5(path):
            raise
        groups = {group: _attributes(open_backend(path), group)[1] for group in ("", "pairs", "crops")}
        faults = [Fault(wrong, group or "/", None, None, None, _AGAIN) for group, wrong in groups.items() if wrong]
        # of what is no cache nothing is sound; a cache of another version is sound in all
        if isinstance(error, RequestError) and len(faults) in (0, len(groups)):
            raise
        return faults or [Fault(str(error), "/", None, None, None, _AGAIN)]


def strays(cache: Cache, units: Iterable[Unit]) -> list[Stray]:
    """What no ledger entry and no group accounts for; `units` are those that can be read."""
    groups = [Group(path, {}) for path in groups_of(cache) if not _is_target(path)]
    return list(cache.backend.strays([*groups, *(Group(unit.path, cache.backend.attributes(unit.path), unit.placed) for unit in units)]))


def groups_of(cache: Cache) -> list[str]:
    """Paths of all groups, readable or not."""
    teachers = [f"targets/{teacher}" for teacher in cache.backend.children("targets")]
    return ["", "pairs", "crops", "targets", *teachers, *(f"targets/{teacher}/{target}" for teacher, target in cache.target_names())]


def _is_target(group: str) -> bool:
    return group.count("/") == 2


def _again(cache: Cache, group: str) -> str:
    names = group.split("/")[1:]
    if not names:
        return _AGAIN
    option = f"--target {'/'.join(names)}" if _is_target(group) else f"--teacher {names[0]}"
    return f"{_AGAIN}, or drop it with `python -m cache gc {cache.path} {option}`"


def _attributes(backend: Reader, group: str) -> tuple[dict[str, Any], str]:
    """The attributes of a group, and what is wrong with them."""
    try:
        attributes = backend.described(group)
        return attributes, "attributes differ from their seal" if unsealed(attributes) else ""
    except (TeachOnceError, KeyError) as error:
        return {}, f"attributes cannot be read ({error})"


def readable_units(cache: Cache) -> list[Unit]:
    """The units whose description is sound."""
    return _opened(cache)[1]


def _opened(cache: Cache) -> tuple[list[Fault], list[Unit]]:
    """What is wrong with the files of the groups, and the units that can be read."""
    faults, units = [], [cache.pairs]
    for group in groups_of(cache):
        attributes, wrong = _attributes(cache.backend, group)
        found = [(group or "/", wrong)] if wrong else list(cache.backend.group_faults(group, attributes))
        if not wrong and _is_target(group) and (unit := cache.target(*group.split("/")[1:])) is not None:
            units.append(unit)
        faults += [Fault(what, where, None, None, None, _again(cache, group)) for where, what in found]
    return faults, units


def _unit_faults(cache: Cache, unit: Unit, deep: bool, pool: ThreadPoolExecutor) -> Iterator[Fault]:
    described = [(placed.path, wrong) for placed in unit.placed if (wrong := cache.backend.metadata_fault(placed))]
    deep = deep and not described
    try:
        unit.constants  # noqa: B018 - reading them checks them
    except TeachOnceError as error:
        described.append((unit.path, f"constants: {error}"))
    for where, wrong in described:
        yield Fault(wrong, where, unit.path, None, None, _again(cache, unit.path))
    there = sorted(cache.backend.published(unit.path))
    for part, found in zip(there, pool.map(lambda part: list(_part_faults(cache, unit, part, deep)), there), strict=True):
        pairs = f"{part * cache.part}-{cache.bounds(part)[1] - 1}" if part < cache.parts else "none"
        yield from (Fault(wrong, where, unit.path, part, pairs, cache.backend.mend) for where, wrong in found)
    done = {part for part in there if part < cache.parts}
    if absent := cache.parts - len(done):
        first = itertools.islice((part for part in range(cache.parts) if part not in done), 8)
        shown = ", ".join(map(str, first)) + (", ..." if absent > 8 else "")
        what = f"unfinished, {absent} of {cache.parts} parts are not published ({shown})"
        yield Fault(what, unit.path, unit.path, None, None, "run `make cache`: finished parts are kept")


def _part_faults(cache: Cache, unit: Unit, part: int, deep: bool) -> Iterator[tuple[str, str]]:
    """(where, what is wrong)."""
    if part >= cache.parts:
        yield f"ledger/{unit.path}", "ledger entry of a part beyond the last"
        return
    try:
        records = (unit.entry(part) or {"arrays": {}})["arrays"]
    except TeachOnceError as error:
        yield f"ledger/{unit.path}", str(error)
        return
    faults = [(placed.path, wrong) for placed in unit.placed if (wrong := cache.backend.fault(placed, part, records[placed.path]))]
    yield from faults
    if deep and not faults:
        yield from _content_faults(cache, unit, *cache.bounds(part))


def _content_faults(cache: Cache, unit: Unit, start: int, stop: int) -> Iterator[tuple[str, str]]:
    """Numbers that are not finite, crops that are no images: things that checksums bear out but that make no sense."""
    import cv2  # only looking at images needs it

    for first in range(start, stop, cache.chunk):
        last = min(first + cache.chunk, stop)
        for name, value in unit.read(first, last).items():
            good = np.isfinite(value).reshape(len(value), -1).all(axis=1)
            yield from ((f"{unit.path}/{name}", f"pair {first + row} is not finite") for row in np.flatnonzero(~good).tolist())
        if unit is cache.pairs:
            for side, images in zip(("ref", "test"), cache.read_crops(first, last), strict=True):
                for row, image in enumerate(images):
                    if cv2.imdecode(image, cv2.IMREAD_COLOR) is None:
                        yield "crops/jpeg", f"{side} crop of pair {first + row} cannot be decoded"


def _stray_fault(cache: Cache, stray: Stray) -> Fault:
    drop = f"run `make cache`, or drop it with `python -m cache gc {cache.path} --unfinished`"
    return Fault(stray.what, stray.path, None, None, None, drop if stray.what in UNFINISHED else "move it out of the cache")
