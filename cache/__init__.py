"""The store: one pair set and the teacher targets that belong to it, in parts that are written once and checked.

    Cache.create / Cache.open     a cache (a directory: zarr v3; a .h5 file: HDF5)
    Cache.pairs, Cache.target()   its units: what is written and published part by part
    find                          the cache below a directory that has a wanted identity
    python -m cache --help        looking, checking, copying, dropping

See cache/layout.py for what lies where.
"""

from __future__ import annotations

from cache.checks import UnfitNumber
from cache.identity import diff, require
from cache.layout import LAYOUT, PairSetSpec
from cache.locate import find, open_below
from cache.store import Cache
from cache.unit import Unit
from configs.arrays import Array, TargetSpec

__all__ = ["LAYOUT", "Array", "Cache", "PairSetSpec", "TargetSpec", "UnfitNumber", "Unit", "diff", "find", "open_below", "require"]
