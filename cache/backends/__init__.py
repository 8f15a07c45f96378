"""Where the bytes of a cache lie: in a zarr tree, on a disk or in a bucket, or in one file (HDF5, a copy). What each does: base.py."""

from __future__ import annotations

from pathlib import Path

from cache.address import Address, Location
from cache.backends.base import Reader
from cache.backends.place import Disk, Place
from cache.backends.zarr_tree import ZarrTree
from configs.errors import RequestError, RunError

HDF5_SUFFIXES = (".h5", ".hdf5")


def is_hdf5(path: Location) -> bool:
    """By what lies at `path` or else by its suffix."""
    return isinstance(path, Path) and (path.is_file() or (not path.exists() and path.suffix in HDF5_SUFFIXES))


def open_place(path: Location) -> Place:
    """Where the files of a zarr cache lie. RequestError for a bucket without the extra `s3`."""
    if isinstance(path, Path):
        return Disk(path)
    try:
        from cache.backends.bucket import Bucket
    except ImportError:
        raise RequestError(f"{path}: expected the package obstore to reach a bucket, found none; pip install 'teachonce[s3]'") from None
    return Bucket(path)


def open_backend(path: Location) -> Reader:
    """What reads the cache at `path`. RunError for a file that is no HDF5."""
    if isinstance(path, Path) and is_hdf5(path):
        from cache.backends.hdf5 import Hdf5Copy  # h5py is only needed here

        return Hdf5Copy(path)
    return ZarrTree(open_place(path))


def exists(path: Location) -> bool:
    """Whether anything lies there: a file, a folder that is not empty, an object in a bucket."""
    if isinstance(path, Address):
        return bool(open_place(path).names(""))
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def is_cache(path: Location) -> bool:
    """Whether a cache lies at `path`, of whatever layout version."""
    if isinstance(path, Path) and not path.exists():
        return False
    try:
        return "teachonce_cache" in open_backend(path).described("")
    except KeyError:
        return False
    except RunError:
        if isinstance(path, Address):  # a bucket that does not answer is another matter
            raise
        return False
