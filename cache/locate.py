"""Finding caches: all below a folder, and the one that has a wanted identity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.address import Address, Location, location
from cache.backends import HDF5_SUFFIXES, is_cache, open_place
from cache.identity import diff
from cache.store import Cache
from configs.errors import RequestError, TeachOnceError


def caches_below(folder: str | Location, depth: int = 3) -> Iterator[Location]:
    """Places of the caches in a folder and its sub-folders, sorted; hidden names (caches being created) are passed over."""
    folder = location(folder)
    for name in sorted(open_place(folder).names("")):
        path = folder / name
        is_folder = isinstance(path, Address) or path.is_dir()
        if name.startswith(".") or not (is_folder or (isinstance(path, Path) and path.suffix in HDF5_SUFFIXES)):
            continue
        if is_cache(path):
            yield path
        elif is_folder and depth > 1:
            yield from caches_below(path, depth - 1)


def name_below(path: Location, folder: Location) -> str:
    """What leads from a folder to a cache in it."""
    return str(path).removeprefix(str(folder)).lstrip("/")


def open_below(folder: str | Location) -> tuple[list[Cache], list[str]]:
    """The caches in a folder and its sub-folders, and why the others cannot be opened: damaged, or of another layout version."""
    caches, faults = [], []
    for path in caches_below(folder):
        try:
            caches.append(Cache.open(path))
        except TeachOnceError as error:  # no reason not to use another one
            faults.append(str(error))
    return caches, faults


def has_pairs(cache: Cache) -> bool:
    """Whether a part of the pair set is finished."""
    return bool(cache.backend.published(cache.pairs.path))


def find(
    cache_dir: str | Location, wanted: Mapping[str, Any], *, ignore: Iterable[str] = (), remedy: str = "make it with `make cache`"
) -> Cache:
    """Of the caches that are `fitting`, the one with most pairs. RequestError: there is none."""
    return max(fitting(cache_dir, wanted, ignore=ignore, remedy=remedy), key=lambda cache: cache.count)


def fitting(
    cache_dir: str | Location, wanted: Mapping[str, Any], *, ignore: Iterable[str] = (), remedy: str = "make it with `make cache`"
) -> list[Cache]:
    """The caches below `cache_dir` whose identity is `wanted`, apart from the ignored fields.

    One without a finished part (of a request that failed) counts only where there is no other.

    RequestError, ending in `remedy`, if there is none: with the differences to the nearest cache, or saying that there is no cache.
    """
    (caches, faults), skipped = open_below(cache_dir), tuple(ignore)
    if not caches:
        unreadable = "".join(f" ({fault})" for fault in faults)
        raise RequestError(f"{cache_dir}: expected a cache below it, found none{unreadable}; {remedy}")
    lines = {cache: diff(cache.identity, wanted, ignore=skipped) for cache in caches}
    if found := [cache for cache in caches if not lines[cache]]:
        return [cache for cache in found if has_pairs(cache)] or found
    nearest = min(caches, key=lambda cache: len(lines[cache]))
    raise RequestError(
        f"{cache_dir}: expected a cache of the wanted identity, found none; nearest {nearest.path} ({'; '.join(lines[nearest])}); {remedy}"
    )
