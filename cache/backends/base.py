"""What the store asks of the place where a cache lies: a directory (zarr) to read and write, an HDF5 copy to read."""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cache.address import Location
from cache.backends.place import Place
from cache.layout import Group, Placed, unsealed
from configs.errors import RequestError, RunError

LOOK = "look at it with `python -m cache verify`"  # the end of a message about damage that a reader meets


_ENTRY = {"unit": str, "part": int, "pairs": list, "fingerprint": str, "arrays": dict}
MADE = "made"
"""Of a ledger entry: what the part was made with as far as it changes no more than rounding, by name. Entries of before have none."""
SEAL = "seal"
"""Of a ledger entry: SHA-256 of all else in it. Entries of before have none."""


class OtherNumbers(RunError):
    """A part that is published comes out with other numbers than its entry says, or its entry cannot be read.

    stored: whether these numbers are what lies there, so that it is the entry that is wrong.
    """

    def __init__(self, message: str, stored: bool = False) -> None:
        super().__init__(message)
        self.stored = stored


class TakenOver(RunError):
    """A part could not be published: its writer was so slow that another has taken it over. Nothing is lost."""


class Stray(NamedTuple):
    """Something in a cache that no ledger entry and no group accounts for."""

    what: str
    path: str  # relative to the cache
    bytes: int  # 0 in a copy, which nothing is removed from


class Part(NamedTuple):
    """All that a part stores, ready to be published."""

    unit: str
    number: int
    data: Sequence[tuple[Placed, np.ndarray]]  # rows of each array, from the part's first on
    entry: Mapping[str, Any]  # of the ledger, without bytes and checksums


class PartWriter(Protocol):
    """A part that is being written, rows after rows; nobody sees it before it is published."""

    def append(self, path: str, rows: np.ndarray) -> None:
        """The next rows of the array at `path`, in its stored dtype."""

    def publish(self) -> None:
        """As `Writer.publish`."""


class Reader(Protocol):
    """Groups, arrays and the ledger of one cache. Nothing here knows of identities or of pairs; rows are counted within a part."""

    @property
    def path(self) -> Location:
        """Where the cache lies."""

    kind: str  # "zarr" or "hdf5"
    mend: str  # what to do where a part is damaged,
    finish: str  # and where one is missing: the end of an error message
    remote: bool  # whether each look costs a request over a network
    checks: bool  # whether a part is checked before it is read for the first time

    def described(self, group: str) -> dict[str, Any]:
        """Attributes of a group as they are; KeyError if there is none, RunError if they cannot be read."""

    def attributes(self, group: str) -> dict[str, Any]:
        """The same, checked against their seal (RunError)."""

    def children(self, group: str) -> list[str]:
        """Names of the groups in a group, sorted."""

    def constant(self, path: str) -> np.ndarray:
        """A small array, whole."""

    def read(self, placed: Placed, part: int, first: int, out: np.ndarray, record: Mapping[str, Any]) -> None:
        """Rows first, first + 1, ... of a published part into `out`; RunError if they are not all there.

        `record` is what the ledger says of the array in this part, here and below.
        """

    def entry(self, unit: str, part: int) -> dict[str, Any] | None:
        """The ledger entry of a part, its seal checked and left out; RunError if there is one that cannot be read."""

    def published(self, unit: str) -> set[int]:
        """The parts with a ledger entry."""

    def fault(self, placed: Placed, part: int, record: Mapping[str, Any], fresh: bool = True) -> str | None:
        """What is wrong with the stored bytes of a part, checked against the ledger; None if nothing.

        `fresh`: with those where the cache lies; else with those that reading will use, which may be a copy that is nearer.
        """

    def stored_bytes(self, placed: Placed, part: int, record: Mapping[str, Any]) -> int:
        """What a published part of an array takes."""

    def metadata_fault(self, placed: Placed) -> str | None:
        """What is wrong with the description (shape, dtype, chunks) of an array; None if nothing."""

    def group_faults(self, group: str, attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(where, what is wrong) with the files of a group whose attributes are sound, its arrays and parts left out."""

    def file_fault(self) -> str | None:
        """What is wrong with a copy beside all that is described; None if nothing."""

    def strays(self, groups: Iterable[Group]) -> Iterator[Stray]:
        """What belongs to none of `groups` or to no published part of them."""

    def history(self) -> list[dict[str, Any]]:
        """The sound records of work done, oldest first."""

    def history_files(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """(where it lies, the record; None if it is damaged), oldest first."""

    def size(self) -> int:
        """Bytes on disk."""


@runtime_checkable
class Writer(Reader, Protocol):
    """A cache that can be changed. Every change is one step: killed anywhere, a reader finds it done or not done."""

    place: Place

    def add(self, group: Group) -> bool:
        """Creates a group with its arrays and constants; False if it is already there (whoever made it)."""

    def restore(self, group: Group) -> list[str]:
        """Writes again what is not as it should be of the description of a group, its arrays and its constants; what that was.

        Attributes that are sound are kept: those of `group` take the place of lost ones alone.
        """

    def drop_records(self, where: Iterable[str]) -> None:
        """Removes records of work, by the names that `history_files` gives."""

    def group_bytes(self, group: str) -> int:
        """Bytes on disk of a group and all below it; 0 if there is nothing."""

    def drop(self, group: str) -> None:
        """Removes a group and all below it; its ledger entries must be retracted before."""

    def publish(self, part: Part) -> None:
        """Stores the rows of a part and then its ledger entry, with `arrays`: bytes and SHA-256 of each.

        The entry is put if absent: of two writers the second compares (OtherNumbers), and of the same numbers writes again what is damaged.
        """

    def begin(self, part: Part) -> contextlib.AbstractContextManager[PartWriter]:
        """A part of these arrays (their rows do not count) that is written piece by piece. Left unpublished, it leaves nothing."""

    def retract(self, unit: str, parts: Iterable[int]) -> None:
        """Removes ledger entries: the parts no longer exist."""

    def sweep(self, strays: Iterable[Stray]) -> None:
        """Removes strays."""

    def add_history(self, record: Mapping[str, Any]) -> None:
        """Appends one record of work done."""


def writable(reader: Reader) -> Writer:
    """The same as one that can be changed. RequestError if it is a copy."""
    if not isinstance(reader, Writer):
        raise RequestError(only_a_copy(reader.path))
    return reader


def only_a_copy(path: Location) -> str:
    """What is said where an HDF5 file is asked to be written."""
    return (
        f"{path}: expected a zarr cache (a directory) to write to, found the path of an HDF5 file, which is a copy and never changed;"
        " change the zarr cache and export it again (`python -m cache export`)"
    )


def json_of(text: bytes) -> dict[str, Any]:
    """The mapping that is written there as JSON; empty where there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def ledger_entry(text: bytes, form: Callable[[Mapping[str, Any]], bytes], where: str, mend: str) -> dict[str, Any]:
    """The ledger entry that is stored as `text`, which `form` gave. RunError if it is none."""
    entry = json_of(text)
    arrays = entry.get("arrays")
    made = entry.get(MADE, {})
    kinds = {key: type(value) for key, value in entry.items() if key not in (MADE, SEAL)}
    sound = kinds == _ENTRY and isinstance(arrays, dict) and all(map(_is_record, arrays.values())) and form(entry) == text
    sound = (
        sound
        and not (SEAL in entry and unsealed(entry))
        and isinstance(made, dict)
        and all(isinstance(value, str | int | None) for value in made.values())
    )
    if not sound or not all(type(pair) is int for pair in entry["pairs"]):
        raise RunError(f"{where}: expected a ledger entry (JSON), found something else; {mend}")
    return {key: value for key, value in entry.items() if key != SEAL}


def _is_record(value: Any) -> bool:
    """Of an array in a ledger entry."""
    if not isinstance(value, dict) or set(value) != {"bytes", "sha256"}:
        return False
    return type(value["bytes"]) is int and value["bytes"] >= 0 and isinstance(value["sha256"], str)


def remains_of(path: Path) -> list[Path]:
    """What killed writers of `path` have left beside it."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))


def bytes_below(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
