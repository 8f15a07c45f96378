"""Unit: what is published part by part. See cache/store.py for the cache that units belong to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cache.backends.base import LOOK, MADE, Part, PartWriter, Reader, writable
from cache.checks import checked_arrays, packed_crops
from cache.layout import Grid, Placed, arrays_of, described_constant
from configs.arrays import Array, TargetSpec
from configs.errors import RequestError, RunError, nearest

Crops = Sequence[tuple[bytes, bytes]]
Packed = tuple[np.ndarray, np.ndarray, np.ndarray]
Made = Mapping[str, str | int | None]


class Unit:
    """What is published part by part: the pair set (path `pairs`) or one target (path `targets/<teacher>/<target>`).

    Safe to read from several threads, and from several processes while others write other parts.
    """

    def __init__(self, backend: Reader, grid: Grid, path: str, crops: tuple[Placed, Placed, Placed] | None = None) -> None:
        self.path = path
        self._backend, self._grid, self._crops = backend, grid, crops
        self._attributes = backend.attributes(path)
        where = f"{backend.path}: {path}"
        if not {"identity", "fingerprint", "arrays"} <= set(self._attributes):
            raise RunError(f"{where}: expected the attributes of a unit, found {sorted(self._attributes)}; restore them from a copy")
        try:
            self.arrays: dict[str, Array] = {array.name: array for array in arrays_of(self._attributes["arrays"])}
        except (KeyError, TypeError) as error:
            raise RunError(f"{where}: expected described arrays, found {error}; restore its attributes from a copy") from None
        self._placed = {name: Placed(path, array, grid) for name, array in self.arrays.items()}
        # what the ledger says of the arrays in the parts that were seen published, which stay
        self._records: dict[int, dict[str, dict[str, Any]]] = {}
        self._checked: set[int] = set()

    @property
    def backend(self) -> Reader:
        """What lies below; for looking and checking."""
        return self._backend

    @property
    def identity(self) -> dict[str, Any]:
        """The identity that the unit was created with; that of the pair set is the cache's."""
        return dict(self._attributes["identity"])

    @property
    def spec(self) -> TargetSpec:
        """The specification that would add this target again."""
        return TargetSpec(self.path.split("/")[-1], self.identity, tuple(self.arrays.values()), self.constants, self.about)

    @property
    def about(self) -> dict[str, Any]:
        """What people are told of it beside the identity; empty where it was added without."""
        return dict(self._attributes.get("about", {}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over identity, layout version, arrays and constants."""
        return str(self._attributes["fingerprint"])

    @property
    def placed(self) -> tuple[Placed, ...]:
        """All arrays in their places, crops included."""
        return (*self._placed.values(), *(self._crops or ()))

    @functools.cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Arrays that belong to the target as a whole, checked against their checksums (RunError)."""
        constants = {}
        for name, described in self._attributes.get("constants", {}).items():
            value = constants[name] = self._backend.constant(f"{self.path}/constants/{name}")
            if described_constant(value) != described:
                raise RunError(f"{self.path}/constants/{name}: expected SHA-256 {described['sha256']}, found other numbers; {LOOK}")
        return constants

    # parts

    def published(self, part: int) -> bool:
        """Whether the part exists. RunError if its ledger entry belongs to something else."""
        return part in self._records or self.entry(part) is not None

    def entry(self, part: int) -> dict[str, Any] | None:
        """{"unit", "part", "pairs", "fingerprint", "arrays": {path: {"bytes", "sha256"}}} of the ledger, None if there is no such part.

        RunError if it belongs to something else.
        """
        pairs, entry = list(self._grid.bounds(part)), self._backend.entry(self.path, part)
        if entry is None:
            return None
        told = {**entry, "arrays": set(entry["arrays"])}
        told.pop(MADE, None)
        arrays = {placed.path for placed in self.placed}
        if told != {"unit": self.path, "part": part, "pairs": pairs, "fingerprint": self.fingerprint, "arrays": arrays}:
            raise RunError(f"{self.path}, part {part}: expected a ledger entry of this unit, found one of another; {self._backend.mend}")
        self._records[part] = entry["arrays"]
        return entry

    def missing(self) -> list[int]:
        """The parts that are not published, in order."""
        there = self._backend.published(self.path)
        unseen = [part for part in sorted(there) if part < self._grid.parts and part not in self._records]
        if len(unseen) > 1:  # in a bucket each takes a request
            with ThreadPoolExecutor(16 if self._backend.remote else 1) as pool:
                list(pool.map(self.entry, unseen))
        return [part for part in range(self._grid.parts) if part not in there or not self.published(part)]

    @property
    def complete(self) -> bool:
        """Whether every part is published."""
        return not self.missing()

    def parts_there(self) -> list[int]:
        """The published parts, in order, as far as the ledger's names tell."""
        return [part for part in sorted(self._backend.published(self.path)) if part < self._grid.parts]

    def entries(self) -> dict[int, dict[str, Any]]:
        """The published parts in order, with their ledger entries."""
        return {part: entry for part in self.parts_there() if (entry := self.entry(part)) is not None}

    def nbytes(self) -> dict[str, int]:
        """Stored bytes of each array (published parts), by name; crops as `crops/jpeg` and so on. Of compressed ones, as compressed."""
        entries, total = self.entries().items(), {}
        for placed in self.placed:
            sizes = (self._backend.stored_bytes(placed, part, entry["arrays"][placed.path]) for part, entry in entries)
            total[placed.path.removeprefix(f"{self.path}/")] = sum(sizes)
        return total

    def check(self, part: int) -> None:
        """Recomputes the checksums of a published part, once. RunError naming the array that differs."""
        if part in self._checked:
            return
        records = (self.entry(part) or {"arrays": {}})["arrays"]
        for placed in self.placed:
            if wrong := self._backend.fault(placed, part, records[placed.path], fresh=False):
                raise RunError(
                    f"{placed.path}, part {part}: expected the bytes of its checksum, found damage ({wrong}); {self._backend.mend}"
                )
        self._checked.add(part)

    # writing and reading

    def write(self, part: int, arrays: Mapping[str, Any], crops: Crops | None = None, made: Made | None = None) -> None:
        """Checks, stores and publishes one part.

        `arrays` maps each name to (n, *shape), n the pairs of the part; floats are cast to the stored type after checking.
        `crops` (for the pair set): n times (ref, test) JPEG files. `made`: with what, as far as it only rounds otherwise. RunError names
        the pair of a number that is not finite or does not fit; what is already published is compared, never rewritten. Each part wants
        one writer.
        """
        writer, (start, stop) = writable(self._backend), self._grid.bounds(part)
        rows = stop - start
        checked = checked_arrays(self.path, list(self.arrays.values()), arrays, start, rows)
        packed = None
        if (crops is None) != (self._crops is None):
            raise RunError(
                f"{self.path}: expected {'no crops' if self._crops is None else 'crops'}, found the opposite; crops belong to the pair set"
            )
        if crops is not None and self._crops is not None:
            packed = packed_crops(crops, start, rows, self._crops[0].grid.part)
        writer.publish(self._part(part, checked, packed, made))

    @contextlib.contextmanager
    def stream(self, part: int, made: Made | None = None) -> Iterator[PartStream]:
        """Writes a part of a target piece by piece, see `PartStream`; left unpublished, it leaves nothing."""
        nothing = {name: np.empty((0, *placed.array.shape), placed.dtype) for name, placed in self._placed.items()}
        with writable(self._backend).begin(self._part(part, nothing, None, made)) as writer:
            yield PartStream(self, *self._grid.bounds(part), writer)

    def read(self, start: int, stop: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows [start, stop) of the named arrays (all by default): name -> (stop - start, *shape) in the stored dtype.

        RunError if a part of the range is not published. Fastest along whole chunks (`cache.chunk` pairs).
        """
        known = self._placed
        for name in names or ():
            if name not in known:
                raise RequestError(
                    f"{self.path}: expected one of {sorted(known)}, found {name!r}{nearest(name, known)}; ask for an array that is there"
                )
        pieces = list(self.pieces(start, stop))
        return {name: self._rows(known[name], pieces, stop - start) for name in (known if names is None else names)}

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The published parts that [start, stop) touches: (part, first row in it, rows)."""
        if not 0 <= start <= stop <= self._grid.rows:
            raise RequestError(
                f"{self.path}: expected pairs within 0-{self._grid.rows}, found {start}-{stop}; ask for pairs that are there"
            )
        while start < stop:
            part = start // self._grid.part
            first, last = self._grid.bounds(part)
            if not self.published(part):
                raise RunError(
                    f"{self.path}: expected part {part} (pairs {first}-{last - 1}) to be published, found no ledger entry;"
                    f" {self._backend.finish}"
                )
            if self._backend.checks:
                self.check(part)
            yield part, start - first, min(stop, last) - start
            start = last

    def _rows(self, placed: Placed, pieces: Iterable[tuple[int, int, int]], total: int) -> np.ndarray:
        out, done = np.empty((total, *placed.array.shape), placed.dtype), 0
        for part, first, rows in pieces:
            self._backend.read(placed, part, first, out[done : done + rows], self._records[part][placed.path])
            done += rows
        return out

    def read_crops(self, start: int, stop: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The encoded (ref, test) crops of pairs [start, stop): two lists of 1-D uint8 views into one buffer a part."""
        if self._crops is None:
            raise RequestError(f"{self.path}: expected the pair set, found a target, which has no crops; read them from cache.pairs")
        refs: list[np.ndarray] = []
        tests: list[np.ndarray] = []
        for piece in self.pieces(start, stop):
            buffer, begins, sizes = self._crop_bytes(self._crops, piece)
            for (ref, test), (ref_size, test_size) in zip(begins.tolist(), sizes.tolist(), strict=True):
                refs.append(buffer[ref : ref + ref_size])
                tests.append(buffer[test : test + test_size])
        return refs, tests

    def _crop_bytes(self, crops: tuple[Placed, Placed, Placed], piece: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The encoded crops of a piece of a part end to end (uint8), where in them each begins, and its bytes (both (pairs, 2))."""
        (jpeg, offset, length), (part, _, rows) = crops, piece
        begins = self._rows(offset, [piece], rows) - part * jpeg.grid.part
        sizes = self._rows(length, [piece], rows)
        first, last = int(begins[0, 0]), int(begins[-1, 1] + sizes[-1, 1])
        if first < 0 or last < first or last > jpeg.grid.part or (begins < first).any() or (begins + sizes > last).any():
            raise RunError(f"crops, part {part}: expected offsets within the part, found others; {LOOK}")
        buffer = np.empty(last - first, np.uint8)
        self._backend.read(jpeg, part, first, buffer, self._records[part][jpeg.path])
        return buffer, begins - first, sizes

    def read_part(self, part: int) -> Part:
        """All that a published part stores, crops included, as another backend may publish it."""
        start, stop = self._grid.bounds(part)
        rows, made = self.read(start, stop), (self.entry(part) or {}).get(MADE)
        return self._part(part, rows, None if self._crops is None else self._crop_bytes(self._crops, (part, 0, stop - start)), made)

    def _part(self, part: int, arrays: Mapping[str, np.ndarray], packed: Packed | None, made: Made | None) -> Part:
        """A part of these rows and of crops as `packed_crops` gives them."""
        data = [(self._placed[name], rows) for name, rows in arrays.items()]
        if packed is not None and self._crops is not None:
            (jpeg, offset, length), (buffer, begins, sizes) = self._crops, packed
            data += [(jpeg, buffer), (offset, begins + part * jpeg.grid.part), (length, sizes)]
        facts = {"unit": self.path, "part": part, "pairs": list(self._grid.bounds(part)), "fingerprint": self.fingerprint}
        return Part(self.path, part, data, facts | ({MADE: dict(made)} if made is not None else {}))


class PartStream:
    """A part of a target that is written some pairs at a time, in order, so that it need not be in memory as a whole."""

    def __init__(self, unit: Unit, start: int, stop: int, writer: PartWriter) -> None:
        """start, stop: its pairs."""
        self._unit, self._done, self._stop, self._writer = unit, start, stop, writer

    def append(self, arrays: Mapping[str, Any]) -> None:
        """The next pairs, each array (n, *shape), checked as by `Unit.write` (RunError)."""
        rows = len(next(iter(arrays.values()), ()))
        if self._done + rows > self._stop:
            raise RunError(
                f"{self._unit.path}: expected pairs up to {self._stop - 1}, found {rows} from {self._done} on; pass each pair once"
            )
        for name, value in checked_arrays(self._unit.path, list(self._unit.arrays.values()), arrays, self._done, rows).items():
            self._writer.append(f"{self._unit.path}/{name}", value)
        self._done += rows

    def publish(self) -> None:
        """Stores and publishes the part, of which every pair was appended (RunError)."""
        if self._done != self._stop:
            raise RunError(
                f"{self._unit.path}: expected pairs up to {self._stop - 1}, found them up to {self._done - 1}; append the others"
            )
        self._writer.publish()
