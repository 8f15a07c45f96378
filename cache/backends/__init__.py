"""Where the bytes of a cache lie: in a zarr tree, on a disk or in a bucket, or in one file (HDF5, a copy). What each does: base.py."""

from __future__ import annotations

from pathlib import Path

from cache.backends.base import Reader
from cache.backends.place import Disk
from cache.backends.zarr_tree import ZarrTree
from configs.errors import RunError

HDF5_SUFFIXES = (".h5", ".hdf5")


def is_hdf5(path: Path) -> bool:
    """By what lies at `path` or else by its suffix."""
    return path.is_file() or (not path.exists() and path.suffix in HDF5_SUFFIXES)


def open_backend(path: Path) -> Reader:
    """What reads the cache at `path`. RunError for a file that is no HDF5."""
    if is_hdf5(path):
        from cache.backends.hdf5 import Hdf5Copy  # h5py is only needed here

        return Hdf5Copy(path)
    return ZarrTree(Disk(path))


def is_cache(path: Path) -> bool:
    """Whether a cache lies at `path`, of whatever layout version."""
    try:
        return path.exists() and "teachonce_cache" in open_backend(path).described("")
    except (KeyError, RunError):
        return False
