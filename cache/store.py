"""Cache: one pair set and its targets, whatever the backend (zarr_store, hdf5_store). Units: cache/unit.py; finding: cache/locate.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.backend import Backend
from cache.identity import plain, require
from cache.layout import DOCS, LAYOUT, Array, Geometry, Group, check_arrays, check_name, sealed
from cache.unit import Unit, described_constant
from cache.zarr_store import ZarrStore
from configs.errors import RequestError, RunError
from configs.files import fingerprint

HDF5_SUFFIXES = (".h5", ".hdf5")


class Cache:
    """One pair set and its targets. `path` is a directory (zarr) or a .h5 file (HDF5); picklable: it opens itself anew."""

    def __init__(self, backend: Backend) -> None:
        """Use `Cache.create` or `Cache.open`."""
        self._backend = backend
        self._attributes = backend.attributes("")
        version = self._attributes.get("teachonce_cache")
        if version != LAYOUT:
            raise RequestError(
                f"{backend.path}: expected a cache of layout version {LAYOUT}, found version {version}; make it again with `make cache`"
            )
        self.path = backend.path
        try:
            self.geometry = Geometry(*(self._attributes[name] for name in ("count", "part", "chunk")))
            crops = self.geometry.crops(backend.attributes("crops")["bytes_bound"])
            self.pairs = Unit(backend, self.geometry, "pairs", crops)
        except KeyError as error:
            raise RunError(f"{backend.path}: expected a whole cache, found no {error}; restore it from a copy, or make it again") from None
        self.count, self.part, self.chunk = self.geometry.count, self.geometry.part, self.geometry.chunk
        self._units: dict[str, Unit] = {}

    def __reduce__(self) -> tuple[Callable[[Path], Cache], tuple[Path]]:
        return Cache.open, (self.path,)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        identity: Mapping[str, Any],
        count: int,
        *,
        crop_bytes_bound: int,
        arrays: Sequence[Array],
        part: int = 1024,
        chunk: int = 64,
        metadata: Mapping[str, Any] | None = None,
        remedy: str = "choose another path, or remove that cache",
    ) -> Cache:
        """Creates an empty cache, or opens the one at `path` if it was created with the same arguments.

        `identity` is everything that changes a stored number of the pair set; `metadata` (say, sequence names) lies outside it.
        `crop_bytes_bound` bounds the mean bytes of a pair's crops within any part. Several processes may call it at once.
        RequestError with the differences and `remedy` if another cache lies there.
        """
        path, geometry = Path(path), Geometry(count, part, chunk)
        check_arrays(arrays, "pairs")
        if crop_bytes_bound < 1:
            raise RequestError(
                f"crop_bytes_bound: expected at least 1 byte a pair, found {crop_bytes_bound}; pass what a pair's crops take"
            )
        own = {"identity": plain(identity), "fingerprint": fingerprint({"layout": LAYOUT, "identity": plain(identity)})}
        described = [array.described() for array in arrays]
        root = {"doc": DOCS[""], "teachonce_cache": LAYOUT, "count": count, "part": part, "chunk": chunk, **own}
        pairs = {"doc": DOCS["pairs"], **own, "arrays": described, "metadata": plain(metadata or {})}
        bound = {"doc": DOCS["crops"], "bytes_bound": crop_bytes_bound}
        groups = [
            Group("", sealed(root)),
            Group("pairs", sealed(pairs), tuple(geometry.stored("pairs", array) for array in arrays)),
            Group("crops", sealed(bound), geometry.crops(crop_bytes_bound)),
            Group("targets", sealed({"doc": DOCS["targets"]})),
        ]
        # an existing cache is opened without building another first; the race of two creators is decided by the rename
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            backend_class(path).create(path, groups)
        cache = cls.open(path)
        require(cache.identity, identity, what=str(path), remedy=remedy)
        found = {"count": cache.count, "part": cache.part, "chunk": cache.chunk, "arrays": _by_name(cache.pairs.arrays.values())}
        wanted = {"count": count, "part": part, "chunk": chunk, "arrays": _by_name(arrays)}
        require(found, wanted, what=str(path), remedy=remedy)
        return cache

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Cache:
        """Opens a cache. RequestError if there is none, if it is something else, or of another layout version."""
        path = Path(path)
        if not path.exists():
            raise RequestError(f"{path}: expected a cache, found nothing; make it with `make cache`, or see `python -m cache ls`")
        backend = backend_class(path)
        if not backend.is_cache(path):
            raise RequestError(
                f"{path}: expected a cache, found something else; name a directory or .h5 file that `python -m cache ls` shows"
            )
        return cls(backend(path))

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that changes a stored number of the pair set, as passed to `create`."""
        return dict(self._attributes["identity"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the layout version and the identity."""
        return str(self._attributes["fingerprint"])

    @property
    def backend(self) -> Backend:
        """What lies below; for looking and checking."""
        return self._backend

    @property
    def metadata(self) -> dict[str, Any]:
        """What `create` was given beside the identity."""
        return dict(self._backend.attributes("pairs")["metadata"])

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self.geometry.parts

    def bounds(self, part: int) -> tuple[int, int]:
        """Pairs [start, stop) of a part."""
        return self.geometry.bounds(part)

    def read_crops(self, start: int, stop: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """See `Unit.read_crops`."""
        return self.pairs.read_crops(start, stop)

    # targets

    def teachers(self) -> dict[str, dict[str, Any]]:
        """Teacher name -> identity."""
        return {name: self._backend.attributes(f"targets/{name}")["identity"] for name in self._backend.children("targets")}

    def targets(self) -> dict[tuple[str, str], Unit]:
        """(teacher, target) -> unit, published or not."""
        names = [
            (teacher, target) for teacher in self._backend.children("targets") for target in self._backend.children(f"targets/{teacher}")
        ]
        return {(teacher, target): unit for teacher, target in names if (unit := self.target(teacher, target)) is not None}

    def target(self, teacher: str, target: str) -> Unit | None:
        """The unit of one target, None if the cache has none."""
        path = f"targets/{check_name(teacher, 'teacher')}/{check_name(target, 'target')}"
        if path not in self._units:
            try:
                self._units[path] = Unit(self._backend, self.geometry, path)
            except KeyError:
                return None
        return self._units[path]

    def add_target(
        self,
        teacher: str,
        target: str,
        teacher_identity: Mapping[str, Any],
        target_identity: Mapping[str, Any],
        arrays: Sequence[Array],
        constants: Mapping[str, np.ndarray] | None = None,
        *,
        about: Mapping[str, Any] | None = None,
        remedy: str = "give this teacher another name, or drop the old one with `python -m cache gc`",
    ) -> Unit:
        """Adds an empty target, or opens the one that was added with the same arguments. Nothing already written is touched.

        `about` (say, which losses need it) is for people: it lies outside the identity and is kept as first written.
        RequestError with the differences and `remedy` if teacher or target exist with another identity, arrays or constants.
        """
        group = f"targets/{check_name(teacher, 'teacher')}"
        path = f"{group}/{check_name(target, 'target')}"
        check_arrays(arrays, path)
        values = {check_name(name, f"constant of {path}"): np.ascontiguousarray(value) for name, value in (constants or {}).items()}
        own = plain(teacher_identity)
        attributes = {
            "doc": f"targets of the teacher {teacher}",
            "identity": own,
            "fingerprint": fingerprint({"layout": LAYOUT, "identity": own}),
        }
        if teacher not in self._backend.children("targets"):
            self._backend.add(Group(group, sealed(attributes)))
        require(self._backend.attributes(group)["identity"], own, what=f"{self.path}: teacher {teacher}", remedy=remedy)
        facts = {"identity": plain(target_identity), "constants": {name: described_constant(value) for name, value in values.items()}}
        over = {"layout": LAYOUT, "pairs": self.fingerprint, "teacher": own, **facts, "arrays": _by_name(arrays)}
        described = {**facts, "arrays": [array.described() for array in arrays], "fingerprint": fingerprint(over)}
        attributes = {"doc": f"target {target} of the teacher {teacher}", **described, **({"about": plain(about)} if about else {})}
        if target not in self._backend.children(group):
            self._backend.add(Group(path, sealed(attributes), tuple(self.geometry.stored(path, array) for array in arrays), values))
        self._units.pop(path, None)  # it may have been dropped and added again
        unit = self.target(teacher, target)
        if unit is None:
            raise RunError(f"{self.path}: expected {path} to be there after adding it, found none; was it dropped at the same time?")
        found = self._backend.attributes(path)
        what = f"{self.path}: {path}"
        require(found["identity"], facts["identity"], what=what, remedy=remedy)
        shapes = {"arrays": _by_name(unit.arrays.values()), "constants": found["constants"]}
        require(shapes, {"arrays": _by_name(arrays), "constants": facts["constants"]}, what=what, remedy=remedy)
        return unit

    # the record of work

    def history(self) -> list[dict[str, Any]]:
        """Records of work (timings), oldest first; no part of identity or checksums."""
        return self._backend.history()

    def add_history(self, record: Mapping[str, Any]) -> None:
        """Appends one record."""
        self._backend.add_history(record)


def _by_name(arrays: Iterable[Array]) -> dict[str, Any]:
    """What makes two arrays the same numbers: not their wording and not their compression."""
    return {array.name: {"shape": list(array.shape), "dtype": np.dtype(array.dtype).name} for array in arrays}


def backend_class(path: Path) -> Any:
    """ZarrStore or Hdf5Store, by what lies at `path` or else by its suffix."""
    if path.is_file() or (not path.exists() and path.suffix in HDF5_SUFFIXES):
        from cache.hdf5_store import Hdf5Store  # h5py is only needed here

        return Hdf5Store
    return ZarrStore


def is_cache(path: Path) -> bool:
    """Whether a cache lies at `path`, of whatever layout version."""
    return path.exists() and bool(backend_class(path).is_cache(path))
