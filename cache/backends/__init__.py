"""Where the bytes of a cache lie: in a directory (zarr), or in one file (HDF5, a copy). What each does for the store: base.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cache.backends.base import Reader
from cache.backends.zarr_disk import ZarrDisk
from configs.errors import RunError

HDF5_SUFFIXES = (".h5", ".hdf5")


def backend_class(path: Path) -> Callable[[Path], Reader]:
    """By what lies at `path` or else by its suffix."""
    if path.is_file() or (not path.exists() and path.suffix in HDF5_SUFFIXES):
        from cache.backends.hdf5 import Hdf5Copy  # h5py is only needed here

        return Hdf5Copy
    return ZarrDisk


def is_cache(path: Path) -> bool:
    """Whether a cache lies at `path`, of whatever layout version."""
    try:
        return path.exists() and "teachonce_cache" in backend_class(path)(path).attributes("")
    except (KeyError, RunError):
        return False
