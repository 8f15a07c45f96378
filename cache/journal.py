"""Changing a file in one step, in place: what HDF5 lacks, and what a part that is published or not published needs.

A `Transaction` is handed to h5py as a file. Bytes beyond the old end are appended at once, where no reader looks yet; changes
of old bytes are held in memory. `commit` makes the appended bytes durable, writes the changed pages to a journal beside the
file (temporary file, fsync, rename), applies it and removes it. Killed before the rename: the file is as before, plus bytes
that nothing refers to. Killed after it: `recover` applies the journal again.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

from configs.files import atomic_writer, fsync_folder

_PAGE = 4096


def journal_of(path: Path) -> Path:
    """Where the journal of a file lies."""
    return path.with_name(f"{path.name}.journal")


class Transaction:
    """A file whose changes happen at `commit`, or not at all. One at a time: the caller holds the lock."""

    def __init__(self, path: Path, clean_size: int | None = None) -> None:
        """`clean_size`: where the content ends; what lies beyond it is left over from a killed writer and cut off."""
        self._path, self._handle, self._at = path, os.open(path, os.O_RDWR), 0
        size = os.fstat(self._handle).st_size
        if clean_size is not None and clean_size < size:
            os.ftruncate(self._handle, clean_size)
            size = clean_size
        self._old = self._size = size
        self._pages: dict[int, bytearray] = {}
        self._error: OSError | None = None

    # the methods that h5py calls

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of a file."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """As of a file."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        buffer = bytearray(max(0, self._size - self._at) if size < 0 else size)
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """As of a file; what was written before is seen."""
        target, begin = memoryview(buffer).cast("B"), self._at
        wanted = max(0, min(len(target), self._size - begin))
        done = 0
        while done < wanted and (got := os.preadv(self._handle, [target[done:wanted]], begin + done)):
            done += got
        target[done:wanted] = bytes(wanted - done)
        for page in range(begin // _PAGE, -(-(begin + wanted) // _PAGE)) if self._pages else ():
            if held := self._pages.get(page):
                first, last = max(begin, page * _PAGE), min(begin + wanted, page * _PAGE + len(held))
                if first < last:
                    target[first - begin : last - begin] = held[first - page * _PAGE : last - page * _PAGE]
        self._at += wanted
        return wanted

    def write(self, data: bytes | memoryview) -> int:
        """As of a file. A failure is kept for `commit`: raised in a callback, it would leave HDF5 with a half-closed file."""
        source = memoryview(data).cast("B")
        begin, end = self._at, self._at + len(source)
        split = max(begin, min(end, self._old))
        at = begin
        while at < split:
            page, inside = divmod(at, _PAGE)
            held = self._pages.get(page)
            if held is None:
                held = self._pages[page] = bytearray(os.pread(self._handle, min(_PAGE, self._old - page * _PAGE), page * _PAGE))
            step = min(split - at, len(held) - inside)
            held[inside : inside + step] = source[at - begin : at - begin + step]
            at += step
        try:
            while at < end and self._error is None:
                at += os.pwrite(self._handle, source[at - begin :], at)
        except OSError as error:
            self._error = error
        self._at, self._size = end, max(self._size, end)
        return len(source)

    def truncate(self, size: int | None = None) -> int:
        """As of a file."""
        self._size = self._at if size is None else size
        return self._size

    def flush(self) -> None:
        """Nothing is lasting before `commit`."""

    # the end of it

    def commit(self) -> None:
        """Makes the changes, in one step. OSError if anything could not be written: then nothing has changed."""
        try:
            if self._error is not None:
                raise self._error
            os.ftruncate(self._handle, max(self._old, self._size))
            os.fsync(self._handle)
            pages = [[page, len(held)] for page, held in self._pages.items()]
            with atomic_writer(journal_of(self._path)) as stream:
                stream.write(json.dumps({"size": self._size, "pages": pages}).encode() + b"\n")
                stream.writelines(self._pages.values())
        except BaseException:
            if not journal_of(self._path).exists():  # else the change is made: whoever holds the lock next applies it
                self.abandon()
            raise
        os.close(self._handle)
        recover(self._path)

    def abandon(self) -> None:
        """Drops the changes."""
        os.ftruncate(self._handle, self._old)
        os.close(self._handle)


def recover(path: Path) -> None:
    """Applies the journal of a file, if there is one. May be done again after a kill. The caller holds the lock."""
    journal = journal_of(path)
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return
    line = content.index(b"\n") + 1
    header, pages = json.loads(content[:line]), memoryview(content)[line:]
    handle = os.open(path, os.O_RDWR)
    try:
        for page, length in header["pages"]:
            os.pwrite(handle, pages[:length], page * _PAGE)
            pages = pages[length:]
        os.ftruncate(handle, header["size"])
        os.fsync(handle)
    finally:
        os.close(handle)
    journal.unlink()
    fsync_folder(path.parent)
