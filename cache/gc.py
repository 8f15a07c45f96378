"""Dropping what is no longer wanted, in an order that a kill cannot harm: ledger entries first, numbers after."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cache.backends.base import bytes_below, remains_of, writable
from cache.layout import Group
from cache.store import Cache
from cache.verify import UNFINISHED, groups_of, readable_units, strays, verify
from configs.errors import RequestError, RunError, nearest


class Action(NamedTuple):
    """One thing to drop: what it is, the bytes it frees, and how."""

    what: str
    bytes: int
    apply: Callable[[], object]


def drop_target(cache: Cache, name: str) -> list[Action]:
    """Drops the target `<teacher>/<target>`. RequestError if there is none."""
    writer, group = writable(cache.backend), f"targets/{name}"
    # a group whose description is lost has no name any more, but still bytes
    if name.count("/") != 1 or ".." in name or not writer.group_bytes(group):
        _require_known(cache, "targets", name, ["/".join(names) for names in cache.target_names()])

    def apply() -> None:
        writer.retract(group, writer.published(group))
        writer.drop(group)

    return [Action(f"target {name}", writer.group_bytes(group), apply)]


def drop_teacher(cache: Cache, name: str) -> list[Action]:
    """Drops a teacher with all its targets. RequestError if there is none."""
    writer, group = writable(cache.backend), f"targets/{name}"
    _require_known(cache, "teachers", name, writer.children("targets"))
    actions = [action for target in writer.children(group) for action in drop_target(cache, f"{name}/{target}")]
    rest = writer.group_bytes(group) - sum(action.bytes for action in actions)
    return [*actions, Action(f"teacher {name}", rest, partial(writer.drop, group))]


def _require_known(cache: Cache, what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise RequestError(
            f"{cache.path}: expected one of the {what} {known}, found {name!r}{nearest(name, known)}; see `python -m cache info`"
        )


def drop_unfinished(cache: Cache) -> list[Action]:
    """Drops what killed or failed writers have left: shards without a ledger entry, claims, temporary files."""
    writer = writable(cache.backend)
    remains = [stray for stray in strays(cache, cache.units().values()) if stray.what in UNFINISHED]
    beside = remains_of(cache.path) if isinstance(cache.path, Path) else []  # of a killed creation
    actions = [Action(str(path), bytes_below(path), partial(_remove, path)) for path in beside]
    if remains:
        actions.append(Action(f"{len(remains)} unfinished files", sum(stray.bytes for stray in remains), partial(writer.sweep, remains)))
    return actions


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def drop_damaged(cache: Cache) -> list[Action]:
    """Retracts the parts in which `verify` finds a fault, so that `make cache` writes them again; of the rest, writes again what follows
    from what is sound, and drops damaged records of work."""
    writer, faults = writable(cache.backend), verify(cache)
    parts = sorted({(fault.unit, fault.part) for fault in faults if fault.unit is not None and fault.part is not None})
    actions = [Action(f"damaged part {part} of {unit}", 0, partial(writer.retract, unit, [part])) for unit, part in parts]
    if records := [where for where, record in writer.history_files() if record is None]:
        actions.append(Action(f"{len(records)} damaged records of work", 0, partial(writer.drop_records, records)))
    if any(fault.what.startswith("zarr.json") for fault in faults):
        actions.append(Action("damaged descriptions, to be written again", 0, partial(restore_descriptions, cache)))
    return actions


def restore_descriptions(cache: Cache) -> list[str]:
    """Writes the descriptions of groups and arrays again that follow from sound attributes; what was damaged."""
    restored: list[str] = []
    writer, units = writable(cache.backend), readable_units(cache)
    placed = [placed for unit in units for placed in unit.placed]
    for path in groups_of(cache):
        with suppress(KeyError, RunError):
            attributes = writer.attributes(path)
            arrays = tuple(place for place in placed if place.group == path)
            restored += writer.restore(Group(path, attributes, arrays))
    return restored
