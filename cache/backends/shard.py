"""Zarr v3 shards as bytes: writing and reading rows of one part without zarr.

A shard is its inner chunks one after the other, then an index of (offset, bytes) as little-endian uint64 for each inner
chunk (2^64 - 1 twice: not stored), then a CRC-32C of the index (zarr specification, `sharding_indexed`). Inner chunks split
only the leading axis, hence those of an uncompressed array are one run of bytes, and those of a compressed one a zstd frame
each. zarr-python would need a part whole in memory, three times, to write it, and about 1 ms an access to read it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from cache.backends.base import LOOK
from cache.backends.place import Place
from cache.layout import Placed
from configs.errors import RunError

COMPRESSION = 3
"""Level of zstd."""
_ABSENT = 2**64 - 1


def shard_key(placed: Placed, part: int) -> str:
    """Of a part's shard, within the cache."""
    return f"{placed.path}/" + ".".join(["c", str(part), *("0" for _ in placed.array.shape)])


@functools.cache
def _zstd() -> Any:
    """Few arrays are compressed, and numcodecs takes a tenth of a second to import."""
    from numcodecs.zstd import Zstd

    return Zstd(level=COMPRESSION)


class ShardWriter:
    """One shard, written to a file some rows at a time: in memory is at most one inner chunk, and that of a compressed array alone.

    The bytes are those of zarr for all the rows at once, a function of the numbers alone. Chunks of zeros are stored too: one that is left
    out would be read back as a fill value.
    """

    def __init__(self, placed: Placed, file: BinaryIO) -> None:
        self.placed, self._file = placed, file
        self._chunk_bytes = placed.grid.chunk * placed.array.row_bytes
        self._pending = bytearray()  # of a compressed array: rows of a chunk that is not whole
        self._rows = 0  # bytes of rows so far
        self._ends: list[int] = []  # of the compressed chunks
        self._size, self._digest = 0, hashlib.sha256()

    def append(self, rows: np.ndarray) -> None:
        """The next rows, in the stored dtype."""
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        self._rows += len(data)
        if not self.placed.array.compress:
            self._put(data)
            return
        self._pending += data
        while len(self._pending) >= self._chunk_bytes:
            self._put_chunk(self._pending[: self._chunk_bytes])
            del self._pending[: self._chunk_bytes]

    def finish(self) -> dict[str, Any]:
        """Writes the index; {"bytes", "sha256"} of the whole shard."""
        rest = -self._rows % self._chunk_bytes
        if not self.placed.array.compress:
            self._put(bytes(rest))
        elif self._pending:
            self._put_chunk(self._pending + bytes(rest))
        stored = -(-self._rows // self._chunk_bytes)
        index = np.full((self.placed.grid.part // self.placed.grid.chunk, 2), _ABSENT, "<u8")
        ends = np.array(self._ends or np.arange(1, stored + 1) * self._chunk_bytes, "<u8")
        index[:stored, 1] = np.diff(ends, prepend=np.uint64(0))
        index[:stored, 0] = ends - index[:stored, 1]
        self._put(index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little"))
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def _put_chunk(self, rows: bytearray) -> None:
        self._put(_zstd().encode(rows))
        self._ends.append(self._size)

    def _put(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)


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
            _zstd().decode(frame, rows)
        except (RuntimeError, ValueError) as error:
            raise self._fault(part, f"a sound shard, found {error}") from None
        return memoryview(rows)

    def _fill(self, part: int, at: int, out: memoryview) -> None:
        try:
            got = self._place.read_into(shard_key(self._placed, part), at, out)
        except FileNotFoundError:
            raise self._fault(part, "a shard, found none") from None
        except OSError as error:
            raise self._fault(part, f"a shard, found one that cannot be read ({error.strerror})") from None
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
