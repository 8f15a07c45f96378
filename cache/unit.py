"""Unit: what is published part by part. See cache/store.py for the cache that units belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cache.backend import Backend, sha256
from cache.check import checked_arrays, packed_crops
from cache.layout import Array, Geometry, Stored, arrays_of, pick
from configs.errors import RequestError, RunError

Crops = Sequence[tuple[bytes, bytes]]


class Unit:
    """What is published part by part: the pair set (path `pairs`) or one target (path `targets/<teacher>/<target>`).

    Safe to read from several threads, and from several processes while others write other parts.
    """

    def __init__(self, backend: Backend, geometry: Geometry, path: str, crops: tuple[Stored, Stored, Stored] | None = None) -> None:
        self.path = path
        self._backend, self._geometry, self._crops = backend, geometry, crops
        self._attributes = backend.attributes(path)
        if not {"identity", "fingerprint", "arrays"} <= set(self._attributes):
            raise RunError(
                f"{backend.path}: {path}: expected the attributes of a unit, found {sorted(self._attributes)}; restore them from a copy"
            )
        try:
            self.arrays: dict[str, Array] = {array.name: array for array in arrays_of(self._attributes["arrays"])}
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{backend.path}: {path}: expected described arrays, found {error}; restore its attributes from a copy"
            ) from None
        self._stored = {name: geometry.stored(path, array) for name, array in self.arrays.items()}
        self._known: set[int] = set()  # parts seen published; published parts stay
        self._constants: dict[str, np.ndarray] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The identity that the unit was created with; that of the pair set is the cache's."""
        return dict(self._attributes["identity"])

    @property
    def about(self) -> dict[str, Any]:
        """What people are told of it beside the identity; empty where it was added without."""
        return dict(self._attributes.get("about", {}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over identity, layout version, arrays and constants."""
        return str(self._attributes["fingerprint"])

    @property
    def stored(self) -> tuple[Stored, ...]:
        """All arrays as the backend stores them, crops included."""
        return (*self._stored.values(), *(self._crops or ()))

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """Arrays that belong to the target as a whole, checked against their checksums (RunError)."""
        if self._constants is None:
            found = {}
            for name, described in self._attributes.get("constants", {}).items():
                value = found[name] = self._backend.constant(f"{self.path}/constants/{name}")
                if described_constant(value) != described:
                    raise RunError(
                        f"{self.path}/constants/{name}: expected SHA-256 {described['sha256']}, found other numbers; drop the target with"
                        f" `python -m cache gc {self._backend.path}` and make it again"
                    )
            self._constants = found
        return dict(self._constants)

    # parts

    def published(self, part: int) -> bool:
        """Whether the part exists. RunError if its ledger entry belongs to something else."""
        if part in self._known:
            return True
        start, stop = self._geometry.bounds(part)
        entry = self._backend.entry(self.path, part)
        if entry is None:
            return False
        held = entry.get("arrays", {})
        fits = entry.get("pairs") == [start, stop] and entry.get("fingerprint") == self.fingerprint
        if not fits or any(stored.path not in held for stored in self.stored):
            raise RunError(
                f"{self.path}, part {part}: expected a ledger entry of this unit, found one of another;"
                f" run `python -m cache gc {self._backend.path} --damaged` and then `make cache`"
            )
        self._known.add(part)
        return True

    def missing(self) -> list[int]:
        """The parts that are not published, in order."""
        there = self._backend.published(self.path)
        return [part for part in range(self._geometry.parts) if part not in there or not self.published(part)]

    @property
    def complete(self) -> bool:
        """Whether every part is published."""
        return not self.missing()

    def entries(self) -> dict[int, dict[str, Any]]:
        """The ledger: part -> {"unit", "part", "pairs", "fingerprint", "arrays": {path: {"bytes", "sha256"}}}."""
        parts = [part for part in sorted(self._backend.published(self.path)) if part < self._geometry.parts and self.published(part)]
        return {part: entry for part in parts if (entry := self._backend.entry(self.path, part)) is not None}

    def nbytes(self) -> dict[str, int]:
        """Stored bytes of each array (published parts), by name; crops as `crops/jpeg` and so on. Of compressed ones, as compressed."""
        total = {self._label(stored): 0 for stored in self.stored}
        for part, entry in self.entries().items():
            for stored in self.stored:
                total[self._label(stored)] += self._backend.stored_bytes(stored, part, entry["arrays"][stored.path])
        return total

    def _label(self, stored: Stored) -> str:
        return stored.path.removeprefix(f"{self.path}/")

    # writing and reading

    def write(self, part: int, arrays: Mapping[str, Any], crops: Crops | None = None) -> None:
        """Checks, stores and publishes one part.

        `arrays` maps each name to (n, *shape), n the pairs of the part; floats are cast to the stored type after checking.
        `crops` (for the pair set): n times (ref, test) JPEG files. RunError names the pair of a number that is not finite
        or does not fit; what is already published is compared, never rewritten. Each part wants one writer.
        """
        start, stop = self._geometry.bounds(part)
        rows = stop - start
        checked = checked_arrays(self.path, list(self.arrays.values()), arrays, start, rows)
        data = [(self._stored[name], value) for name, value in checked.items()]
        if (crops is None) != (self._crops is None):
            raise RunError(
                f"{self.path}: expected {'no crops' if self._crops is None else 'crops'}, found the opposite; crops belong to the pair set"
            )
        if crops is not None and self._crops is not None:
            jpeg, offset, length = self._crops
            packed, offsets, lengths = packed_crops(crops, start, rows, jpeg.part_rows)
            data += [(jpeg, packed), (offset, offsets + part * jpeg.part_rows), (length, lengths)]
        entry = {"unit": self.path, "part": part, "pairs": [start, stop], "fingerprint": self.fingerprint}
        self._backend.publish(self.path, part, data, entry)

    def read(self, start: int, stop: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows [start, stop) of the named arrays (all by default): name -> (stop - start, *shape) in the stored dtype.

        RunError if a part of the range is not published. Fastest along whole chunks (`cache.chunk` pairs).
        """
        wanted = pick(self._stored, names, self.path)
        pieces = list(self.pieces(start, stop))
        return {name: self._rows(self._stored[name], pieces, stop - start) for name in wanted}

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The published parts that [start, stop) touches: (part, first row in it, rows)."""
        if not 0 <= start <= stop <= self._geometry.count:
            raise RequestError(
                f"{self.path}: expected pairs within 0-{self._geometry.count}, found {start}-{stop}; ask for pairs that are there"
            )
        while start < stop:
            part = start // self._geometry.part
            first, last = self._geometry.bounds(part)
            if not self.published(part):
                raise RunError(
                    f"{self.path}: expected part {part} (pairs {first}-{last - 1}) to be published, found no ledger entry;"
                    " write it with `make cache` (finished parts are kept)"
                )
            yield part, start - first, min(stop, last) - start
            start = last

    def _rows(self, stored: Stored, pieces: Iterable[tuple[int, int, int]], total: int) -> np.ndarray:
        out, done = np.empty((total, *stored.shape), stored.dtype), 0
        for part, first, rows in pieces:
            self._backend.read(stored, part, first, out[done : done + rows])
            done += rows
        return out

    def read_crops(self, start: int, stop: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The encoded (ref, test) crops of pairs [start, stop): two lists of 1-D uint8 views into one buffer a part."""
        if self._crops is None:
            raise RequestError(f"{self.path}: expected the pair set, found a target, which has no crops; read them from cache.pairs")
        jpeg, offset, length = self._crops
        refs: list[np.ndarray] = []
        tests: list[np.ndarray] = []
        for piece in self.pieces(start, stop):
            part, rows = piece[0], piece[2]
            at = self._rows(offset, [piece], rows) - part * jpeg.part_rows
            size = self._rows(length, [piece], rows)
            first, last = int(at[0, 0]), int(at[-1, 1] + size[-1, 1])
            if first < 0 or last < first or last > jpeg.part_rows or (at < first).any() or (at + size > last).any():
                raise RunError(
                    f"crops, part {part}: expected offsets within the part, found others; look at it with `python -m cache verify`"
                )
            buffer = np.empty(last - first, np.uint8)
            self._backend.read(jpeg, part, first, buffer)
            for (ref, test), (ref_size, test_size) in zip((at - first).tolist(), size.tolist(), strict=True):
                refs.append(buffer[ref : ref + ref_size])
                tests.append(buffer[test : test + test_size])
        return refs, tests


def described_constant(value: np.ndarray) -> dict[str, Any]:
    """What the identity keeps of a constant."""
    return {"shape": list(value.shape), "dtype": value.dtype.name, "sha256": sha256(np.ascontiguousarray(value))}
