"""Zarr v3 shards as bytes: encoding one part, and reading rows without zarr.

A shard is its inner chunks one after the other, then an index of (offset, bytes) as little-endian uint64 for each inner
chunk (2^64 - 1 twice: not stored), then a CRC-32C of the index (zarr specification, `sharding_indexed`). zarr-python
does the encoding. Reading by it costs about 1 ms an access, so rows are read directly: inner chunks split only the leading
axis, hence those of an uncompressed array are one run of bytes, and those of a compressed one a zstd frame each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numcodecs.zstd import Zstd
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from cache.backends.base import LOOK
from cache.backends.place import Place
from cache.layout import Placed
from configs.errors import RunError

_ABSENT = 2**64 - 1


def shard_key(placed: Placed, part: int) -> str:
    """Of a part's shard, within the cache."""
    return f"{placed.path}/" + ".".join(["c", str(part), *("0" for _ in placed.array.shape)])


def encode(metadata: bytes, placed: Placed, part: int, rows: np.ndarray) -> memoryview:
    """The shard that holds `rows` (from the part's first row on): a function of the numbers alone.

    Encoded in memory, because zarr-python would merge with whatever an interrupted writer left in the file.
    """
    held: dict[str, Buffer] = {"zarr.json": cpu.Buffer.from_bytes(metadata)}
    # without write_empty_chunks a chunk of zeros would be left out, and read back as a fill value
    array = zarr.open_array(MemoryStore(held), mode="r+").with_config({"write_empty_chunks": True})
    array[part * placed.grid.part : part * placed.grid.part + len(rows)] = rows  # type: ignore[call-overload,unused-ignore]
    return memoryview(held[shard_key(placed, part).removeprefix(f"{placed.path}/")].as_buffer_like())


class ShardReader:
    """Reads rows of one array; safe for threads. Every shard must have the bytes that its ledger entry says."""

    def __init__(self, place: Place, placed: Placed) -> None:
        self._place, self._placed = place, placed
        self._chunks = placed.grid.part // placed.grid.chunk
        self._chunk_bytes = placed.grid.chunk * placed.array.row_bytes
        self._indices: dict[int, np.ndarray] = {}  # part -> (stored chunks, 2): where each begins, and its bytes

    def read(self, part: int, first: int, out: np.ndarray, record: Mapping[str, Any]) -> None:
        """Rows [first, first + len(out)) of the part into `out` (C order); `record`: of the shard, in the ledger."""
        if not out.size:
            return
        target, begin = out.data.cast("B"), first * self._placed.array.row_bytes
        index = self._index(part, record["bytes"])
        if begin + len(target) > len(index) * self._chunk_bytes:
            raise self._fault(part, f"{begin + len(target)} bytes of rows, found fewer")
        if not self._placed.array.compress:
            self._fill(part, begin, target)
            return
        for chunk in range(begin // self._chunk_bytes, -(-(begin + len(target)) // self._chunk_bytes)):
            rows, starts = self._decoded(part, index[chunk]), chunk * self._chunk_bytes
            a, b = max(begin, starts), min(begin + len(target), starts + self._chunk_bytes)
            target[a - begin : b - begin] = rows[a - starts : b - starts]

    def _decoded(self, part: int, place: np.ndarray) -> memoryview:
        frame, rows = bytearray(int(place[1])), bytearray(self._chunk_bytes)
        self._fill(part, int(place[0]), memoryview(frame))
        try:
            Zstd().decode(frame, rows)
        except (RuntimeError, ValueError) as error:
            raise self._fault(part, f"a sound shard, found {error}") from None
        return memoryview(rows)

    def _fill(self, part: int, at: int, out: memoryview) -> None:
        try:
            got = self._place.read_into(shard_key(self._placed, part), at, out)
        except FileNotFoundError:
            raise self._fault(part, "a shard, found none") from None
        if got < len(out):
            raise self._fault(part, f"{at + len(out)} bytes, found {at + got}")

    def _index(self, part: int, size: int) -> np.ndarray:
        """Where the stored inner chunks lie, after checking that they follow one another without gaps."""
        if part not in self._indices:
            found = self._place.size(shard_key(self._placed, part))
            if found != size:
                raise self._fault(part, f"a shard of {size} bytes, found {'none' if found is None else found}")
            end = size - 16 * self._chunks - 4
            table = np.empty((self._chunks, 2), "<u8")
            if end < 0:
                raise self._fault(part, "a shard with an index, found a shorter one")
            self._fill(part, end, table.data.cast("B"))
            stored = int((table[:, 0] != _ABSENT).sum())
            index, rest = table[:stored], table[stored:]
            sizes = index[:, 1] if self._placed.array.compress else np.full(stored, self._chunk_bytes, "<u8")
            if not np.array_equal(index, np.stack([np.cumsum(sizes) - sizes, sizes], 1)) or sizes.sum() != end or (rest != _ABSENT).any():
                raise self._fault(part, "a shard of whole chunks in order, found another")
            self._indices[part] = index
        return self._indices[part]

    def _fault(self, part: int, what: str) -> RunError:
        return RunError(f"{self._placed.path}, part {part}: expected {what}; {LOOK}")
