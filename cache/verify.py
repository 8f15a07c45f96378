"""Checking a cache against its ledger: every byte, every description, and nothing else there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from cache.backend import Stray
from cache.inspect import units
from cache.layout import Group, unsealed
from cache.store import Cache
from cache.unit import Unit
from configs.errors import TeachOnceError

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
    faults = list(_descriptions(cache))
    broken = {fault.where for fault in faults}
    readable = {}
    for path, unit in _readable_units(cache, faults).items():
        readable[path] = unit
        faults += _unit_faults(cache, unit, deep and not any(stored.path in broken for stored in unit.stored))
    faults += [_stray_fault(cache, stray) for stray in strays(cache, readable)]
    return faults


def strays(cache: Cache, readable: dict[str, Unit] | None = None) -> list[Stray]:
    """What no ledger entry and no group accounts for."""
    known = units(cache) if readable is None else readable
    groups = [Group("targets", {}), Group("crops", {}), *(Group(f"targets/{teacher}", {}) for teacher in cache.backend.children("targets"))]
    for path, unit in known.items():
        constants = {name: np.empty(0) for name in cache.backend.attributes(path).get("constants", {})}
        groups.append(Group(path, {}, unit.stored, constants))
    return list(cache.backend.strays(groups))


def _again(cache: Cache) -> str:
    return f"run `python -m cache gc {cache.path} --damaged` and then `make cache`"


def _drop(cache: Cache, group: str) -> str:
    names = group.split("/")[1:]
    if not names:
        return "restore it from a copy, or remove the cache and run `make cache`"
    option = f"--target {'/'.join(names)}" if len(names) == 2 else f"--teacher {names[0]}"
    return f"run `python -m cache gc {cache.path} {option}` and then `make cache`"


def _groups(cache: Cache) -> Iterator[str]:
    yield from ("", "pairs", "crops", "targets")
    for teacher in cache.backend.children("targets"):
        yield f"targets/{teacher}"
        yield from (f"targets/{teacher}/{target}" for target in cache.backend.children(f"targets/{teacher}"))


def _descriptions(cache: Cache) -> Iterator[Fault]:
    """Attributes whose seal does not fit."""
    for group in _groups(cache):
        try:
            wrong = "attributes differ from their seal" if unsealed(cache.backend.attributes(group)) else None
        except (TeachOnceError, KeyError) as error:
            wrong = f"attributes cannot be read ({error})"
        if wrong:
            yield Fault(wrong, group or "/", None, None, None, _drop(cache, group))


def _readable_units(cache: Cache, faults: list[Fault]) -> dict[str, Unit]:
    """The units that can be opened; for the others there is a fault already."""
    readable = {"pairs": cache.pairs}
    named = {fault.where for fault in faults}
    for group in _groups(cache):
        names = group.split("/")
        if len(names) == 3:
            try:
                unit = cache.target(names[1], names[2])
            except TeachOnceError as error:
                unit = None
                if group not in named:
                    faults.append(Fault(str(error), group, group, None, None, _drop(cache, group)))
            if unit is not None:
                readable[group] = unit
    return readable


def _unit_faults(cache: Cache, unit: Unit, deep: bool) -> Iterator[Fault]:
    for stored in unit.stored:
        if wrong := cache.backend.metadata_fault(stored):
            yield Fault(wrong, stored.path, unit.path, None, None, _drop(cache, unit.path))
    try:
        unit.constants  # noqa: B018 - reading them checks them
    except (TeachOnceError, OSError, ValueError, KeyError) as error:
        yield Fault(f"constants: {error}", unit.path, unit.path, None, None, _drop(cache, unit.path))
    there = cache.backend.published(unit.path)
    for part in sorted(there):
        yield from _part_faults(cache, unit, part, deep)
    absent = [part for part in range(cache.parts) if part not in there]
    if absent:
        shown = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
        what = f"unfinished, {len(absent)} of {cache.parts} parts are not published ({shown})"
        yield Fault(what, unit.path, unit.path, None, None, "run `make cache`: finished parts are kept")


def _part_faults(cache: Cache, unit: Unit, part: int, deep: bool) -> Iterator[Fault]:
    if part >= cache.parts:
        yield Fault("ledger entry of a part beyond the last", f"ledger/{unit.path}", unit.path, part, "none", _again(cache))
        return
    start, stop = cache.bounds(part)
    pairs = f"{start}-{stop - 1}"
    try:
        entry = cache.backend.entry(unit.path, part)
        unit.published(part)
    except TeachOnceError as error:
        yield Fault(str(error), f"ledger/{unit.path}", unit.path, part, pairs, _again(cache))
        return
    whole = True
    for stored in unit.stored:
        record: dict[str, Any] = (entry or {})["arrays"][stored.path]
        if wrong := cache.backend.fault(stored, part, record):
            whole = False
            yield Fault(wrong, stored.path, unit.path, part, pairs, _again(cache))
    if whole and deep:
        for where, wrong in _content_faults(cache, unit, start, stop):
            yield Fault(wrong, where, unit.path, part, pairs, _again(cache))


def _content_faults(cache: Cache, unit: Unit, start: int, stop: int) -> Iterator[tuple[str, str]]:
    """Numbers that are not finite, crops that are no images: things that checksums bear out but that make no sense."""
    import cv2  # only looking at images needs it

    for first in range(start, stop, cache.chunk):
        last = min(first + cache.chunk, stop)
        for name, value in unit.read(first, last).items():
            good = np.isfinite(value).reshape(len(value), -1).all(axis=1)
            for row in np.flatnonzero(~good).tolist():
                yield f"{unit.path}/{name}", f"pair {first + row} is not finite"
        if unit is cache.pairs:
            for side, images in zip(("ref", "test"), cache.read_crops(first, last), strict=True):
                for row, image in enumerate(images):
                    if cv2.imdecode(image, cv2.IMREAD_COLOR) is None:
                        yield "crops/jpeg", f"{side} crop of pair {first + row} cannot be decoded"


def _stray_fault(cache: Cache, stray: Stray) -> Fault:
    if stray.what in UNFINISHED:
        remedy = f"run `make cache`, or drop it with `python -m cache gc {cache.path} --unfinished`"
    else:
        remedy = "move it out of the cache"
    return Fault(stray.what, stray.path, None, None, None, remedy)
