"""Zarr v3 shards as bytes: encoding one part, and reading rows of uncompressed ones without zarr.

A shard file is its inner chunks one after the other, then an index of (offset, bytes) as little-endian uint64 for each
inner chunk (2^64 - 1 twice: not stored), then a CRC-32C of the index (zarr specification, `sharding_indexed`). zarr-python
does the encoding. It costs about 1 ms an access, so rows of uncompressed arrays are read directly: inner chunks split only
the leading axis and lie in order, hence the rows of a part are one run of bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from cache.backends.base import LOOK
from cache.layout import Placed
from configs.errors import RunError


def shard_key(placed: Placed, part: int) -> str:
    """File name of a part's shard in the folder of its array."""
    return ".".join(["c", str(part), *("0" for _ in placed.array.shape)])


def encode(metadata: bytes, placed: Placed, part: int, rows: np.ndarray) -> memoryview:
    """The shard that holds `rows` (from the part's first row on): a function of the numbers alone.

    Encoded in memory, because zarr-python would merge with whatever an interrupted writer left in the file.
    """
    held: dict[str, Buffer] = {"zarr.json": cpu.Buffer.from_bytes(metadata)}
    # without write_empty_chunks a chunk of zeros would be left out, and read back as a fill value
    array = zarr.open_array(MemoryStore(held), mode="r+").with_config({"write_empty_chunks": True})
    array[part * placed.grid.part : part * placed.grid.part + len(rows)] = rows  # type: ignore[call-overload,unused-ignore]
    return memoryview(held[shard_key(placed, part)].as_buffer_like())


class RawReader:
    """Reads rows of one uncompressed array; safe for threads. Files are opened for each read: a cache may have thousands."""

    def __init__(self, folder: Path, placed: Placed) -> None:
        self._folder, self._placed = folder, placed
        self._bytes: dict[int, int] = {}  # part -> bytes of rows in its shard, from its index

    def read(self, part: int, first: int, out: np.ndarray) -> None:
        """Rows [first, first + len(out)) of the part into `out` (C order)."""
        path = self._folder / shard_key(self._placed, part)
        target = out.data.cast("B") if out.size else memoryview(b"")
        begin = first * self._placed.array.row_bytes
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise RunError(f"{self._placed.path}, part {part}: expected the shard {path}, found none; {LOOK}") from None
        try:
            if part not in self._bytes:
                self._bytes[part] = self._bytes_stored(handle, part)
            done = 0
            while begin + len(target) <= self._bytes[part] and done < len(target):
                got = os.preadv(handle, [target[done:]], begin + done)
                if got == 0:
                    break
                done += got
        finally:
            os.close(handle)
        if done < len(target):
            raise RunError(f"{self._placed.path}, part {part}: expected {begin + len(target)} bytes of rows, found fewer; {LOOK}")

    def _bytes_stored(self, handle: int, part: int) -> int:
        """Bytes of inner chunks, after checking that the index says they lie in order without gaps."""
        chunks, chunk_bytes = self._placed.grid.part // self._placed.grid.chunk, self._placed.grid.chunk * self._placed.array.row_bytes
        index_at = os.fstat(handle).st_size - 16 * chunks - 4
        held = index_at // chunk_bytes
        if 0 <= held <= chunks:
            expected = np.full((chunks, 2), 2**64 - 1, dtype="<u8")
            expected[:held, 0] = np.arange(held, dtype="<u8") * np.uint64(chunk_bytes)
            expected[:held, 1] = chunk_bytes
            if os.pread(handle, 16 * chunks, index_at) == expected.tobytes():
                return held * chunk_bytes
        raise RunError(f"{self._placed.path}, part {part}: expected a shard of whole chunks in order, found another; {LOOK}")
