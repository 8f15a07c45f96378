"""Cache: one pair set and its targets, whatever the backend (cache/backends). Units: cache/unit.py; finding: cache/locate.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.address import Address, Location, location
from cache.backends import exists, is_cache, is_hdf5, open_backend, open_place
from cache.backends.base import Reader, Writer, only_a_copy, writable
from cache.backends.zarr_tree import ZarrTree
from cache.identity import require
from cache.layout import (
    LAYOUT,
    Grid,
    Group,
    PairSetSpec,
    by_name,
    check_name,
    crop_arrays,
    make_again,
    pair_groups,
    target_group,
    teacher_group,
)
from cache.unit import Unit
from configs.arrays import TargetSpec
from configs.errors import RequestError, RunError


class Cache:
    """One pair set and its targets. `path` is a directory or an address in a bucket (zarr), or a .h5 file (HDF5, a copy to read).

    Picklable: it opens itself anew.
    """

    def __init__(self, backend: Reader) -> None:
        """Use `Cache.create` or `Cache.open`."""
        self._backend = backend
        self._attributes = backend.described("")
        version = self._attributes.get("teachonce_cache")
        if version != LAYOUT:
            raise RequestError(
                f"{backend.path}: expected a cache of layout version {LAYOUT}, found version {version};"
                f" make it again with `{make_again(self._attributes)}` and remove this one"
            )
        self.path = backend.path
        self._attributes = backend.attributes("")
        try:
            self.grid = Grid(*(self._attributes[name] for name in ("count", "part", "chunk")))
            crops = crop_arrays(self.grid, backend.attributes("crops")["bytes_bound"])
            self.pairs = Unit(backend, self.grid, "pairs", crops)
        except KeyError as error:
            raise RunError(f"{backend.path}: expected a whole cache, found no {error}; restore it from a copy, or make it again") from None
        self.count, self.part, self.chunk = self.grid.rows, self.grid.part, self.grid.chunk
        self._units: dict[str, Unit] = {}

    def __reduce__(self) -> tuple[Callable[[Location, bool], Cache], tuple[Location, bool]]:
        return _opened, (self.path, self._backend.checks)

    @classmethod
    def create(cls, path: str | Location, spec: PairSetSpec, *, remedy: str = "choose another path, or remove that cache") -> Cache:
        """Creates an empty cache, or opens the one at `path` if it was created with the same specification (metadata aside).

        Several processes may call it at once. RequestError with the differences and `remedy` if another cache lies there.
        """
        path, groups = location(path), pair_groups(spec)
        # an existing cache is opened without building another first; the race of two creators is decided by the place
        # in a bucket the root's description comes last: without it another creator is at it, or was killed
        if not exists(path) or (isinstance(path, Address) and open_place(path).size("zarr.json") is None):
            if is_hdf5(path):
                raise RequestError(only_a_copy(path))
            ZarrTree.create(open_place(path), groups)
        if not is_hdf5(path):
            _restore_lost(ZarrTree(open_place(path)), "pairs", groups)
        cache = cls.open(path)
        writable(cache.backend)
        require(cache.identity, spec.identity, what=str(path), remedy=remedy)
        require(_shape(cache.spec), _shape(spec), what=str(path), remedy=remedy)
        for group in groups:
            arrays = tuple(placed for placed in cache.pairs.placed if placed.group == group.path)
            writable(cache.backend).restore(replace(group, arrays=arrays))
        return cache

    @classmethod
    def open(cls, path: str | Location) -> Cache:
        """Opens a cache. RequestError if there is none, if it is something else, or of another layout version."""
        path = location(path)
        if not (exists(path) or (isinstance(path, Path) and path.exists())):
            raise RequestError(f"{path}: expected a cache, found nothing; make it with `make cache`, or see `python -m cache ls`")
        if not is_cache(path):
            raise RequestError(
                f"{path}: expected a cache, found something else; name a directory or .h5 file that `python -m cache ls` shows"
            )
        return cls(open_backend(path))

    def check_before_use(self, wanted: bool = True) -> Cache:
        """From now on every part is checked against its checksums before it is read for the first time (RunError); gives itself."""
        self._backend.checks = wanted
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that changes a stored number of the pair set, as passed to `create`."""
        return dict(self._attributes["identity"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the layout version and the identity."""
        return str(self._attributes["fingerprint"])

    @property
    def backend(self) -> Reader:
        """What lies below; for looking and checking."""
        return self._backend

    @property
    def metadata(self) -> dict[str, Any]:
        """What `create` was given beside the identity."""
        return dict(self._backend.attributes("pairs")["metadata"])

    @property
    def spec(self) -> PairSetSpec:
        """The specification that would create this cache, without targets, again."""
        bound = self._backend.attributes("crops")["bytes_bound"]
        arrays = tuple(self.pairs.arrays.values())
        return PairSetSpec(self.identity, self.count, arrays, bound, self.part, self.chunk, self.metadata)

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self.grid.parts

    def bounds(self, part: int) -> tuple[int, int]:
        """Pairs [start, stop) of a part."""
        return self.grid.bounds(part)

    def read_crops(self, start: int, stop: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """See `Unit.read_crops`."""
        return self.pairs.read_crops(start, stop)

    def units(self) -> dict[str, Unit]:
        """All units by path, the pair set first."""
        return {"pairs": self.pairs, **{unit.path: unit for unit in self.targets().values()}}

    # targets

    def teachers(self) -> dict[str, dict[str, Any]]:
        """Teacher name -> identity."""
        return {name: self._backend.attributes(f"targets/{name}")["identity"] for name in self._backend.children("targets")}

    def target_names(self) -> list[tuple[str, str]]:
        """(teacher, target) of all targets, readable or not."""
        children = self._backend.children
        return [(teacher, target) for teacher in children("targets") for target in children(f"targets/{teacher}")]

    def targets(self) -> dict[tuple[str, str], Unit]:
        """(teacher, target) -> unit, published or not."""
        return {names: unit for names in self.target_names() if (unit := self.target(*names)) is not None}

    def target(self, teacher: str, target: str) -> Unit | None:
        """The unit of one target, None if the cache has none."""
        path = f"targets/{check_name(teacher, 'teacher')}/{check_name(target, 'target')}"
        if path not in self._units:
            try:
                self._units[path] = Unit(self._backend, self.grid, path)
            except KeyError:
                return None
        return self._units[path]

    def add_target(
        self,
        teacher: str,
        teacher_identity: Mapping[str, Any],
        target: TargetSpec,
        *,
        remedy: str = "give this teacher another name, or drop the old one with `python -m cache gc`",
    ) -> Unit:
        """Adds an empty target, or opens the one that was added with the same arguments. Nothing already written is touched.

        What `target.about` says lies outside the identity and is kept as first written.
        RequestError with the differences and `remedy` if teacher or target exist with another identity, arrays or constants.
        """
        parent = teacher_group(teacher, teacher_identity)
        group = target_group(parent, target, self.grid, self.fingerprint)
        writer = writable(self._backend)
        if teacher not in writer.children("targets"):
            writer.add(parent)
        _restore_lost(writer, group.path, (parent, group))
        held, wanted = self._backend.attributes(parent.path), parent.attributes
        require(held["identity"], wanted["identity"], what=f"{self.path}: teacher {teacher}", remedy=remedy)
        if target.name not in self._backend.children(parent.path):
            writer.add(group)
        self._units.pop(group.path, None)  # it may have been dropped and added again
        unit = self.target(teacher, target.name)
        if unit is None:
            raise RunError(f"{self.path}: expected {group.path} to be there after adding it, found none; was it dropped at the same time?")
        held, wanted, what = self._backend.attributes(group.path), group.attributes, f"{self.path}: {group.path}"
        require(held["identity"], wanted["identity"], what=what, remedy=remedy)
        shapes = {"arrays": by_name(unit.arrays.values()), "constants": held["constants"]}
        require(shapes, {"arrays": by_name(target.arrays), "constants": wanted["constants"]}, what=what, remedy=remedy)
        writer.restore(replace(group, arrays=unit.placed))
        return unit

    # the record of work

    def history(self) -> list[dict[str, Any]]:
        """Records of work (timings), oldest first; no part of identity or checksums."""
        return self._backend.history()

    def add_history(self, record: Mapping[str, Any]) -> None:
        """Appends one record."""
        writable(self._backend).add_history(record)


def _restore_lost(writer: Writer, unit: str, groups: Sequence[Group]) -> None:
    """Writes damaged attributes of a unit again, where an entry of its ledger shows that it is the one of these groups."""
    for part in sorted(writer.published(unit)):
        with suppress(RunError):
            entry = writer.entry(unit, part)
            if entry is not None and entry["fingerprint"] == groups[-1 if unit != "pairs" else 0].attributes["fingerprint"]:
                for group in groups:
                    writer.restore(replace(group, arrays=(), constants={}))
            return


def _opened(path: Location, checks: bool) -> Cache:
    return Cache.open(path).check_before_use(checks)


def _shape(spec: PairSetSpec) -> dict[str, Any]:
    return {"count": spec.count, "part": spec.part, "chunk": spec.chunk, "arrays": by_name(spec.arrays)}
