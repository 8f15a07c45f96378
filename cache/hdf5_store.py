"""The single-file backend: HDF5, chunked, the ledger inside. For filesystems with few inodes and for copying.

Every group keeps its attributes as one JSON text in the dataset `attributes` (HDF5's own are limited to 64 KiB); `ledger/<unit>/
<part>` are JSON texts too. Checksums are of a part's rows, not of its chunks, so writers in another order give another file with the
same ledger. Changes go through `cache.journal`, one writer at a time under a lock of the file; readers wait meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.backend import Stray, make_folders, same_or_error, sha256
from cache.journal import Transaction, journal_of, recover
from cache.layout import DOCS, Group, Stored
from configs.errors import RunError
from configs.files import fsync_folder

_VERSIONS = ("v108", "v110")  # of the format: read by every HDF5 of the last decade


class _Open:
    """A file that is open for reading, one for all caches of a process.

    HDF5 shares what it knows of a file among all handles of a process: a second one would go on showing what the first has
    read before another process changed the file.
    """

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.file: h5py.File | None = None
        self.state: tuple[int, ...] = ()  # of the file when it was opened

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.file = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the interpreter h5py may be gone
            self.close()


_opened: weakref.WeakValueDictionary[str, _Open] = weakref.WeakValueDictionary()
_opened_guard = threading.Lock()


class Hdf5Store:
    """One cache in one file (see `cache.backend.Backend`)."""

    kind = "hdf5"

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened_guard:
            self._open = _opened.setdefault(str(path.resolve()), _Open())

    @staticmethod
    def is_cache(path: Path) -> bool:
        """Whether a cache of this kind lies at `path`, whatever its layout version."""
        try:
            store = Hdf5Store(path)
            return bool(h5py.is_hdf5(path)) and "teachonce_cache" in store.attributes("")
        except (OSError, KeyError, ValueError, RunError):
            return False

    @staticmethod
    def create(path: Path, groups: Sequence[Group]) -> bool:
        """Creates a cache with these groups (the root first) in one step; False if something is already at `path`."""
        make_folders(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "r+b") as stream:
                with h5py.File(stream, "w", libver=_VERSIONS) as file:
                    for group in groups:
                        _build(file, group)
                    file.create_group("ledger").attrs["doc"] = DOCS["ledger"]
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            try:
                os.link(temporary, path)  # unlike a rename, it fails where something is
            except FileExistsError:
                return False
            fsync_folder(path.parent)
            return True
        finally:
            Path(temporary).unlink(missing_ok=True)

    # the open file

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Holds the lock of the file (fcntl.LOCK_SH or LOCK_EX), after applying what a killed writer has journaled."""
        while True:
            handle = os.open(self.path, os.O_RDWR if kind == fcntl.LOCK_EX else os.O_RDONLY)
            try:
                fcntl.flock(handle, kind)
                if kind == fcntl.LOCK_EX:
                    recover(self.path)
                if not journal_of(self.path).exists():
                    yield
                    return
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough where a fork has copied the handle
                os.close(handle)
            with self._locked(fcntl.LOCK_EX):
                pass

    @contextlib.contextmanager
    def _reading(self) -> Iterator[h5py.File]:
        opened = self._open
        with opened.guard, self._locked(fcntl.LOCK_SH):
            stat = self.path.stat()
            state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            try:
                if opened.file is None or state != opened.state:
                    opened.close()
                    # no chunk cache: reads go by whole chunks, and past it they are copied once less
                    opened.file, opened.state = h5py.File(self.path, "r", locking=False, rdcc_nbytes=0), state
                yield opened.file
            except (RuntimeError, ValueError, OSError) as error:
                what = f"{self.path}: expected a sound HDF5 file, found {error}"
                raise RunError(f"{what}; look at it with `python -m cache verify`") from error

    def _change(self, change: Callable[[h5py.File], Any]) -> Any:
        """Applies `change` to the file in one step."""
        with self._open.guard:
            self._open.close()
            with self._locked(fcntl.LOCK_EX):
                transaction = Transaction(self.path, _end_of_content(self.path))
                try:
                    with h5py.File(transaction, "r+", libver=_VERSIONS) as file:
                        result = change(file)
                except BaseException:
                    transaction.abandon()
                    raise
                transaction.commit()
                os.utime(self.path, ns=(time.time_ns(), time.time_ns()))  # finer than the system's clock ticks: readers see it
            return result

    # groups

    def attributes(self, group: str) -> dict[str, Any]:
        with self._reading() as file:
            text = file[f"{group}/attributes".lstrip("/")][()]
        return dict(json.loads(text))

    def children(self, group: str) -> list[str]:
        with self._reading() as file:
            return sorted(name for name, item in file[group].items() if isinstance(item, h5py.Group)) if group in file else []

    def add(self, group: Group) -> bool:
        def change(file: h5py.File) -> bool:
            if group.path in file:
                return False
            _build(file, group)
            return True

        return bool(self._change(change))

    def drop(self, group: str) -> None:
        def change(file: h5py.File) -> None:
            for path in (group, f"ledger/{group}"):
                if path in file:
                    del file[path]

        self._change(change)

    # rows

    def constant(self, path: str) -> np.ndarray:
        with self._reading() as file:
            return np.asarray(file[path][()])

    def read(self, stored: Stored, part: int, first: int, out: np.ndarray) -> None:
        begin = part * stored.part_rows + first
        with self._reading() as file:
            if stored.path not in file or file[stored.path].shape != (stored.rows, *stored.shape):
                raise RunError(
                    f"{stored.path}: expected {stored.rows} rows of {stored.shape}, found another array or none;"
                    " look at it with `python -m cache verify`"
                )
            if len(out):
                file[stored.path].read_direct(out, np.s_[begin : begin + len(out)])

    def publish(self, unit: str, part: int, data: Sequence[tuple[Stored, np.ndarray]], entry: Mapping[str, Any]) -> None:
        records = {stored.path: {"bytes": rows.nbytes, "sha256": sha256(rows)} for stored, rows in data}
        before = self.entry(unit, part)
        if before is not None:
            for path, record in records.items():
                same_or_error(path, part, record, before)
            return

        def change(file: h5py.File) -> None:
            for stored, rows in data:
                begin = part * stored.part_rows
                file[stored.path][begin : begin + len(rows)] = rows
            name = f"ledger/{unit}/{part:05d}"
            if name in file:
                del file[name]
            _text(file, name, json.dumps({**entry, "arrays": records}, sort_keys=True))

        self._change(change)

    # ledger

    def entry(self, unit: str, part: int) -> dict[str, Any] | None:
        name = f"ledger/{unit}/{part:05d}"
        with self._reading() as file:
            text = file[name][()] if name in file else None
        try:
            content = None if text is None else json.loads(text)
        except ValueError:
            content = text
        if content is not None and not isinstance(content, dict):
            raise RunError(
                f"{self.path}:{name}: expected a ledger entry (JSON), found something else; run `python -m cache gc {self.path} --damaged`"
            )
        return content

    def published(self, unit: str) -> set[int]:
        with self._reading() as file:
            return {int(name) for name in file.get(f"ledger/{unit}", {}) if name.isdigit()}

    def retract(self, unit: str, parts: Iterable[int]) -> None:
        names = [f"ledger/{unit}/{part:05d}" for part in parts]

        def change(file: h5py.File) -> None:
            for name in names:
                if name in file:
                    del file[name]

        self._change(change)

    # checking

    def fault(self, stored: Stored, part: int, record: Mapping[str, Any]) -> str | None:
        rows = np.empty((record["bytes"] // stored.row_bytes, *stored.shape), stored.dtype)
        try:
            self.read(stored, part, 0, rows)
        except RunError as error:
            return str(error)
        return None if sha256(rows) == record["sha256"] else "checksum of the rows differs"

    def stored_bytes(self, stored: Stored, part: int, record: Mapping[str, Any]) -> int:
        if not stored.compress:
            return int(record["bytes"])
        # the ledger knows the rows; what gzip made of them, only the file
        first, rest = part * stored.part_rows, (0,) * len(stored.shape)
        last = min(first + stored.part_rows, stored.rows)
        with self._reading() as file:
            chunks = file[stored.path].id
            return sum(chunks.get_chunk_info_by_coord((row, *rest)).size for row in range(first, last, stored.chunk_rows))

    def metadata_fault(self, stored: Stored) -> str | None:
        with self._reading() as file:
            if stored.path not in file:
                return "dataset is missing"
            found = file[stored.path]
            wanted = ((stored.rows, *stored.shape), stored.dtype, (min(stored.chunk_rows, stored.rows), *stored.shape))
            return (
                None if (found.shape, found.dtype, found.chunks) == wanted else "shape, dtype or chunks differ from what the unit describes"
            )

    def strays(self, groups: Iterable[Group]) -> Iterator[Stray]:
        known = {"attributes", "ledger", "ledger/history"}
        for group in groups:
            known |= {
                group.path,
                f"{group.path}/attributes",
                f"{group.path}/constants",
                f"ledger/{group.path}",
                *(s.path for s in group.arrays),
            }
            known |= {f"{group.path}/constants/{name}" for name in group.constants or {}}
            known |= {f"ledger/{group.path}/{part:05d}" for part in self.published(group.path)}
        known |= {os.path.dirname(name) for name in known if name.startswith("ledger/targets/")}  # noqa: PTH120 - a path inside the file
        known |= {"ledger/targets"}
        names: list[str] = []
        with self._reading() as file:
            file.visit(names.append)
            sizes = {name: int(file[name].id.get_storage_size()) if isinstance(file[name], h5py.Dataset) else 0 for name in names}
        for name in names:
            if name not in known and not name.startswith("ledger/history/"):
                yield Stray("foreign object", name, sizes[name])

    def sweep(self, strays: Iterable[Stray]) -> None:
        names = [stray.path for stray in strays]

        def change(file: h5py.File) -> None:
            for name in names:
                if name in file:
                    del file[name]

        self._change(change)

    # the record of work

    def history(self) -> list[dict[str, Any]]:
        with self._reading() as file:
            lines = file.get("ledger/history", {})
            return [json.loads(lines[name][()]) for name in sorted(lines)]

    def add_history(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(dict(record), sort_keys=True)
        self._change(lambda file: _text(file, f"ledger/history/{len(file.get('ledger/history', {})):08d}", text))

    def size(self, group: str = "") -> int:
        if not group:
            return self.path.stat().st_size
        names: list[str] = []
        with self._reading() as file:
            if group not in file:
                return 0
            file[group].visit(names.append)
            items = [file[group][name] for name in names]
            return sum(int(item.id.get_storage_size()) for item in items if isinstance(item, h5py.Dataset))


def _text(file: h5py.File, name: str, text: str) -> None:
    file.create_dataset(name, data=np.bytes_(text.encode("ascii")))


def _build(file: h5py.File, group: Group) -> None:
    """Writes a new group into an open file."""
    folder = file.require_group(group.path or "/")
    folder.attrs["doc"] = group.attributes["doc"]
    _text(folder, "attributes", json.dumps(group.attributes))
    for stored in group.arrays:
        dataset = file.create_dataset(
            stored.path,
            shape=(stored.rows, *stored.shape),
            dtype=stored.dtype,
            chunks=(min(stored.chunk_rows, stored.rows), *stored.shape),
            compression="gzip" if stored.compress else None,
        )
        dataset.attrs["doc"] = stored.doc
    for name, value in (group.constants or {}).items():
        folder.create_dataset(f"constants/{name}", data=value)


def _end_of_content(path: Path) -> int | None:
    """Where HDF5 says its file ends (format specification, superblock); None for a superblock that we do not write."""
    with open(path, "rb") as stream:
        head = stream.read(48)
    at = {0: 40, 2: 28, 3: 28}.get(head[8])
    return None if at is None else int(struct.unpack_from("<Q", head, at)[0])
