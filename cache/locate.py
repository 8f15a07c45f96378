"""Finding caches: all below a folder, and the one that has a wanted identity."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.identity import diff
from cache.store import HDF5_SUFFIXES, Cache, is_cache
from configs.errors import RequestError, TeachOnceError


def caches_below(folder: str | os.PathLike[str], depth: int = 3) -> Iterator[Path]:
    """Paths of the caches in a folder and its sub-folders, sorted; hidden names (caches being created) are passed over."""
    try:
        entries = sorted(Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir() or path.suffix in HDF5_SUFFIXES:
            if is_cache(path):
                yield path
            elif path.is_dir() and depth > 1:
                yield from caches_below(path, depth - 1)


def find(
    cache_dir: str | os.PathLike[str], wanted: Mapping[str, Any], *, ignore: Iterable[str] = (), remedy: str = "make it with `make cache`"
) -> Cache:
    """The cache below `cache_dir` whose identity is `wanted`, apart from the ignored fields; of several the one with most pairs.

    RequestError, ending in `remedy`, if there is none: with the differences to the nearest cache, or saying that there is no cache.
    """
    caches, unreadable, skipped = [], "", tuple(ignore)
    for path in caches_below(cache_dir):
        try:
            caches.append(Cache.open(path))
        except TeachOnceError as error:  # damaged, or of another layout version: no reason not to use another one
            unreadable += f" ({error})"
    if not caches:
        raise RequestError(f"{cache_dir}: expected a cache below it, found none{unreadable}; {remedy}")
    lines = {cache: diff(cache.identity, wanted, ignore=skipped) for cache in caches}
    fitting = [cache for cache in caches if not lines[cache]]
    if fitting:
        return max(fitting, key=lambda cache: cache.count)
    nearest = min(caches, key=lambda cache: len(lines[cache]))
    raise RequestError(
        f"{cache_dir}: expected a cache of the wanted identity, found none; nearest {nearest.path} ({'; '.join(lines[nearest])}); {remedy}"
    )
