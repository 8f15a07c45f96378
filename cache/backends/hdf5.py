"""A copy of a cache in a single HDF5 file: for filesystems with few inodes and for handing on. Written whole, never changed.

Every group keeps its attributes as one JSON text in the dataset `attributes` (HDF5's own are limited to 64 KiB);
`ledger/<unit>/<part>` and `ledger/history/<number>` are JSON texts too. Checksums are of a part's rows, not of its chunks; the file ends
with the SHA-256 of all before it, for what HDF5 itself keeps between them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from cache.backends.base import LOOK, Part, Stray, json_of, ledger_entry, remains_of
from cache.backends.place import make_folders
from cache.layout import DOCS, Group, Placed, sealed, sha256, unsealed
from configs.errors import RunError, TeachOnceError
from configs.files import fsync_folder
from configs.stop import Deferred

_VERSIONS = ("v108", "v110")  # of the format: read by every HDF5 of the last decade
_MARK = b"\nTeachOnce copy, SHA-256 of all before: "
"""Begins the trailer, which HDF5 passes over."""
_TRAILER = len(_MARK) + 64
_MARKED = "sha256_at_the_end"
"""Attribute of a file that has a trailer."""


class Hdf5Copy:
    """One copy of a cache, open for reading (see `cache.backends.base.Reader`). Safe for threads and for forked processes.

    h5py lets one thread at a time into HDF5, and forks only while none is inside; HDF5 reads at places that it names itself,
    so that processes may share the open file.
    """

    kind = "hdf5"
    remote = checks = False
    mend = finish = "remove this copy and export its zarr cache again, finished and sound"

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            # no chunk cache: reads go by whole chunks, and past it they are copied once less
            self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except TeachOnceError:
            raise
        except Exception as error:  # a damaged file fails in any way
            raise RunError(f"{self.path}: expected a sound HDF5 file, found {error!s:.300}; {LOOK}") from error

    # groups and rows

    def described(self, group: str) -> dict[str, Any]:
        name = f"{group}/attributes".lstrip("/")
        with self._reading():
            text = bytes(self._file[name][()]) if name in self._file else None
        if text is None:
            raise KeyError(group)
        return json_of(text)

    def attributes(self, group: str) -> dict[str, Any]:
        attributes = self.described(group)
        if unsealed(attributes):
            raise RunError(f"{self.path}: {group or '/'}: attributes differ from their seal; {LOOK}")
        return attributes

    def children(self, group: str) -> list[str]:
        with self._reading():
            return sorted(name for name, item in self._file.get(group, {}).items() if isinstance(item, h5py.Group))

    def constant(self, path: str) -> np.ndarray:
        with self._reading():
            return np.asarray(self._file[path][()])

    def read(self, placed: Placed, part: int, first: int, out: np.ndarray, record: Mapping[str, Any]) -> None:
        begin = part * placed.grid.part + first
        with self._reading():
            dataset = self._file.get(placed.path)
            if dataset is None or dataset.shape != placed.shape:
                raise RunError(f"{placed.path}: expected an array of shape {placed.shape}, found another or none; {LOOK}")
            if len(out):
                dataset.read_direct(out, np.s_[begin : begin + len(out)])

    # ledger

    def entry(self, unit: str, part: int) -> dict[str, Any] | None:
        name = f"ledger/{unit}/{part:05d}"
        with self._reading():
            text = self._file[name][()] if name in self._file else None
        return None if text is None else ledger_entry(bytes(text), _json, f"{self.path}:{name}", self.mend)

    def published(self, unit: str) -> set[int]:
        with self._reading():
            return {int(name) for name in self._file.get(f"ledger/{unit}", {}) if name.isdecimal()}

    def history(self) -> list[dict[str, Any]]:
        return [record for _, record in self.history_files() if record is not None]

    def history_files(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        with self._reading():
            records = self._file.get("ledger/history", {})
            for name in sorted(records):
                yield f"ledger/history/{name}", json_of(bytes(records[name][()])) or None

    # checking

    def fault(self, placed: Placed, part: int, record: Mapping[str, Any], fresh: bool = True) -> str | None:
        first, last = placed.grid.bounds(part)
        if record["bytes"] > (last - first) * placed.array.row_bytes:  # fewer only of crops
            return "ledger says more bytes than there are rows"
        rows = np.empty((record["bytes"] // placed.array.row_bytes, *placed.array.shape), placed.dtype)
        try:
            self.read(placed, part, 0, rows, record)
        except RunError as error:
            return str(error)
        return None if sha256(rows) == record["sha256"] else "checksum of the rows differs"

    def stored_bytes(self, placed: Placed, part: int, record: Mapping[str, Any]) -> int:
        if not placed.array.compress:
            return int(record["bytes"])
        # the ledger knows the rows; what gzip made of them, only the file
        rest = (0,) * len(placed.array.shape)
        with self._reading():
            chunks = self._file[placed.path].id
            first_rows = range(*placed.grid.bounds(part), placed.grid.chunk)
            return sum(chunks.get_chunk_info_by_coord((row, *rest)).size for row in first_rows)

    def metadata_fault(self, placed: Placed) -> str | None:
        with self._reading():
            dataset = self._file.get(placed.path)
            if dataset is None:
                return "dataset is missing"
            same = (dataset.shape, dataset.dtype, dataset.chunks) == (placed.shape, placed.dtype, _chunks(placed))
            return None if same else "shape, dtype or chunks differ from what the unit describes"

    def group_faults(self, group: str, attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        return iter(())

    def file_fault(self) -> str | None:
        with self._reading(), open(self.path, "rb") as stream:
            size = max(0, self.path.stat().st_size - _TRAILER)
            stream.seek(size)
            trailer = stream.read()
            if trailer.startswith(_MARK):
                return None if trailer[len(_MARK) :].decode(errors="replace") == _digest(stream, size) else "checksum of the file differs"
            # copies of before have none
            return "checksum at the end of the file is missing" if _MARKED in self._file.attrs else None

    def strays(self, groups: Iterable[Group]) -> Iterator[Stray]:
        names: list[str] = []
        known = {"ledger", "ledger/targets", "ledger/history"}
        for group in groups:
            known |= {*group.paths(), f"ledger/{group.path}"}
        with self._reading():
            self._file.visit(names.append)
        for name in names:
            folder, _, last = name.rpartition("/")
            counts = last.isdecimal() if folder.startswith("ledger/") else last == "attributes"
            if name not in known and not (folder in known and counts):
                yield Stray("foreign object", name, 0)

    def size(self) -> int:
        return self.path.stat().st_size


def write_copy(path: Path, groups: Iterable[Group], parts: Iterable[Part], history: Iterable[Mapping[str, Any]]) -> None:
    """Writes a copy with these groups, parts and records of work: there is a whole file at `path` afterwards, or what was there before.

    RunError if it cannot be written; whatever ends it but a kill leaves nothing, and the next call removes what a kill has left.
    """
    with Deferred() as asked:  # raised within HDF5, a signal would be lost, and what was being written with it
        with _new_file(path) as stream, h5py.File(stream, "w", libver=_VERSIONS) as file:
            for _ in _filled(file, groups, parts, history):
                stream.check()
                asked.obey()
        asked.obey()


def _filled(file: h5py.File, groups: Iterable[Group], parts: Iterable[Part], history: Iterable[Mapping[str, Any]]) -> Iterator[None]:
    """Writes all that a copy holds; gives way after each part."""
    for group in groups:
        _build(file, group)
    file.create_group("ledger").attrs["doc"] = DOCS["ledger"]
    file.attrs[_MARKED] = True
    for part in parts:
        for placed, rows in part.data:
            begin = part.number * placed.grid.part
            file[placed.path][begin : begin + len(rows)] = rows
        records = {placed.path: {"bytes": rows.nbytes, "sha256": sha256(rows)} for placed, rows in part.data}
        _text(file, f"ledger/{part.unit}/{part.number:05d}", sealed({**part.entry, "arrays": records}))
        yield
    for number, record in enumerate(history):
        _text(file, f"ledger/history/{number:08d}", record)


class _Stream(io.FileIO):
    """A file for HDF5 to write that keeps a failure for `check`: raised into HDF5, it would leave it with a file that it cannot close."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """As of a file."""
        rest = memoryview(data).cast("B")
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        """As of a file."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = error
            return self.tell() if size is None else size

    def check(self) -> None:
        """OSError if anything could not be written."""
        if self.error is not None:
            raise self.error


def _digest(stream: BinaryIO | io.FileIO, size: int) -> str:
    """SHA-256 of the first `size` bytes; leaves the stream behind them."""
    digest, left = hashlib.sha256(), size
    stream.seek(0)
    while left and (block := stream.read(min(left, 1 << 18))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[_Stream]:
    """A file that gets its name once it is whole and durable."""
    make_folders(path.parent)
    for remains in remains_of(path):
        remains.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    # made as every new file is, so that the umask says who may read it
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with _Stream(handle, "r+b") as stream:
            yield stream
            end = stream.seek(0, os.SEEK_END)
            stream.write(_MARK + _digest(stream, end).encode())
            stream.check()
            os.fsync(handle)
        temporary.rename(path)
        fsync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{path}: expected to write this copy, found {error}; free some space and export it again") from error
    finally:
        temporary.unlink(missing_ok=True)


def _text(file: h5py.Group, name: str, content: Mapping[str, Any]) -> None:
    file.create_dataset(name, data=np.bytes_(_json(content)))


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode("ascii")


def _chunks(placed: Placed) -> Sequence[int]:
    return (min(placed.grid.chunk, placed.grid.rows), *placed.array.shape)


def _build(file: h5py.File, group: Group) -> None:
    """Writes a new group into an open file."""
    folder = file.require_group(group.path or "/")
    folder.attrs["doc"] = group.attributes["doc"]
    _text(folder, "attributes", group.attributes)
    for placed in group.arrays:
        compression = "gzip" if placed.array.compress else None
        dataset = file.create_dataset(placed.path, placed.shape, placed.dtype, chunks=_chunks(placed), compression=compression)
        dataset.attrs["doc"] = placed.array.doc
    for name, value in group.constants.items():
        folder.create_dataset(f"constants/{name}", data=value)
