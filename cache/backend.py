"""What a backend does for the store. Two exist: zarr (a directory) and HDF5 (one file); one contract suite runs on both."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from cache.layout import Group, Stored
from configs.errors import RunError


class Stray(NamedTuple):
    """Something in a cache that no ledger entry and no group accounts for."""

    what: str
    path: str  # relative to the cache
    bytes: int


class Backend(Protocol):
    """Groups, arrays and the ledger of one cache.

    Nothing here knows of identities or of pairs; rows are counted within a part. Every change is one step: killed
    anywhere, a reader finds it done or not done.
    """

    path: Path
    kind: str  # "zarr" or "hdf5"

    def attributes(self, group: str) -> dict[str, Any]:
        """Attributes of a group; KeyError if there is none."""

    def children(self, group: str) -> list[str]:
        """Names of the groups in a group, sorted."""

    def add(self, group: Group) -> bool:
        """Creates a group with its arrays and constants; False if it is already there (whoever made it)."""

    def drop(self, group: str) -> None:
        """Removes a group and all below it; its ledger entries must be retracted before."""

    def constant(self, path: str) -> np.ndarray:
        """A small array, whole."""

    def read(self, stored: Stored, part: int, first: int, out: np.ndarray) -> None:
        """Rows first, first + 1, ... of a published part into `out`; RunError if they are not all there."""

    def publish(self, unit: str, part: int, data: Sequence[tuple[Stored, np.ndarray]], entry: Mapping[str, Any]) -> None:
        """Stores the rows of a part and then its ledger entry, `entry` with `arrays`: bytes and SHA-256 of each.

        A part that is already published is compared, never rewritten (RunError if the numbers differ).
        """

    def entry(self, unit: str, part: int) -> dict[str, Any] | None:
        """The ledger entry of a part; RunError if there is one that cannot be read."""

    def published(self, unit: str) -> set[int]:
        """The parts with a ledger entry."""

    def retract(self, unit: str, parts: Iterable[int]) -> None:
        """Removes ledger entries: the parts no longer exist."""

    def fault(self, stored: Stored, part: int, record: Mapping[str, Any]) -> str | None:
        """What is wrong with the stored bytes of a part, checked against the ledger; None if nothing."""

    def stored_bytes(self, stored: Stored, part: int, record: Mapping[str, Any]) -> int:
        """What a published part of an array takes; `record` is its entry in the ledger."""

    def metadata_fault(self, stored: Stored) -> str | None:
        """What is wrong with the description (shape, dtype, chunks) of an array; None if nothing."""

    def strays(self, groups: Iterable[Group]) -> Iterator[Stray]:
        """What belongs to none of `groups` or to no published part of them."""

    def sweep(self, strays: Iterable[Stray]) -> None:
        """Removes strays."""

    def history(self) -> list[dict[str, Any]]:
        """The records of `add_history`, oldest first."""

    def add_history(self, record: Mapping[str, Any]) -> None:
        """Appends one record of work done."""

    def size(self, group: str = "") -> int:
        """Bytes on disk of a group and all below it, of the whole cache by default."""


def sha256(blob: Any) -> str:
    """SHA-256 (hex) of bytes or of a contiguous array's bytes."""
    return hashlib.sha256(memoryview(blob).cast("B") if memoryview(blob).nbytes else b"").hexdigest()


def same_or_error(path: str, part: int, record: Mapping[str, Any], published: Mapping[str, Any]) -> None:
    """RunError unless a part that is already published holds the very numbers that were to be written."""
    if record != published["arrays"].get(path):
        raise RunError(
            f"{path}, part {part}: expected a part that is not published, found it published with other numbers;"
            " run one writer at a time, or drop the old numbers with `python -m cache gc`"
        )


def make_folders(folder: Path) -> None:
    """mkdir -p whose every step is durable."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for step in reversed(missing):
        step.mkdir(exist_ok=True)
        handle = os.open(step.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
