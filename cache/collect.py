"""Dropping what is no longer wanted, in an order that a kill cannot harm: ledger entries first, numbers after."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cache.store import Cache
from cache.verify import UNFINISHED, strays, verify
from configs.errors import RequestError, nearest


class Action(NamedTuple):
    """One thing to drop: what it is, the bytes it frees, and how."""

    what: str
    bytes: int
    apply: Callable[[], None]


def drop_target(cache: Cache, name: str) -> list[Action]:
    """Drops the target `<teacher>/<target>`. RequestError if there is none."""
    known = [
        f"{teacher}/{target}" for teacher in cache.backend.children("targets") for target in cache.backend.children(f"targets/{teacher}")
    ]
    group = f"targets/{name}"
    # a group whose description is lost has no name any more, but still bytes
    if name not in known and (name.count("/") != 1 or ".." in name or not cache.backend.size(group)):
        raise RequestError(
            f"{cache.path}: expected one of the targets {known}, found {name!r}{nearest(name, known)}; see `python -m cache info`"
        )

    def apply() -> None:
        cache.backend.retract(group, cache.backend.published(group))
        cache.backend.drop(group)

    return [Action(f"target {name}", cache.backend.size(group), apply)]


def drop_teacher(cache: Cache, name: str) -> list[Action]:
    """Drops a teacher with all its targets. RequestError if there is none."""
    known = cache.backend.children("targets")
    if name not in known:
        raise RequestError(
            f"{cache.path}: expected one of the teachers {known}, found {name!r}{nearest(name, known)}; see `python -m cache info`"
        )
    actions = [action for target in cache.backend.children(f"targets/{name}") for action in drop_target(cache, f"{name}/{target}")]
    group = f"targets/{name}"
    rest = cache.backend.size(group) - sum(action.bytes for action in actions)
    return [*actions, Action(f"teacher {name}", rest, lambda: cache.backend.drop(group))]


def drop_unfinished(cache: Cache) -> list[Action]:
    """Drops what killed or failed writers have left: shards without a ledger entry, temporary files."""
    remains = [stray for stray in strays(cache) if stray.what in UNFINISHED]
    actions = [_remove(path) for path in sorted(cache.path.parent.glob(f".{cache.path.name}.*.tmp"))]  # of a killed creation
    if remains:
        freed = sum(stray.bytes for stray in remains)
        actions.append(Action(f"{len(remains)} unfinished files", freed, lambda: cache.backend.sweep(remains)))
    return actions


def _remove(path: Path) -> Action:
    if path.is_file():
        return Action(str(path), path.stat().st_size, lambda: path.unlink(missing_ok=True))
    freed = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Action(str(path), freed, lambda: shutil.rmtree(path, ignore_errors=True))


def drop_damaged(cache: Cache) -> list[Action]:
    """Retracts the parts in which `verify` finds a fault, so that `make cache` writes them again."""
    parts = sorted({(fault.unit, fault.part) for fault in verify(cache) if fault.unit is not None and fault.part is not None})
    return [_retract(cache, unit, part) for unit, part in parts]


def _retract(cache: Cache, unit: str, part: int) -> Action:
    return Action(f"damaged part {part} of {unit}", 0, lambda: cache.backend.retract(unit, [part]))
