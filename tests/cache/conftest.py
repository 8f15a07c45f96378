"""A small cache in three parts of 8, 8 and 4 pairs, as zarr or as an HDF5 copy, and the numbers that belong into it."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from cache import Array, Cache, PairSetSpec, TargetSpec
from cache.export import export

COUNT, PART, CHUNK = 20, 8, 4
IDENTITY = {"dataset": "demo", "split": "train", "pairs": {"seed": 3, "crop_size": 32}, "sigmas": (0.1, 0.2)}
PAIRS = [
    Array("sequence", (), "int32", "index of the sequence"),
    Array("frame", (2,), "int32", "frame numbers"),
    Array("ref_box", (4,), "float32", "pixels"),
    Array("test_box", (4,), "float32", "pixels"),
    Array("proposals", (3, 4), "float32", "pixels"),
    Array("grey", (), "bool", "both images grey"),
]
TEACHER = {"architecture": "atom", "sha256": "ab" * 32}
ABOUT = {"doc": "sums of maps (layer2, layer3)", "needed_by": ["fidelity", "teacher_soft"]}
MAPS = (Array("layer2", (2, 6, 6), "float16", "sum of |U|"), Array("layer3", (2, 3, 3), "float16", "the same", True))
COARSE = Array("coarse", (2, 16, 16), "float16", "few bits, as whole features have them", True)
SPEC = PairSetSpec(IDENTITY, COUNT, PAIRS, 4000, PART, CHUNK, {"sequences": ["a", "b"]})
TARGET = TargetSpec("maps", {"version": 1}, MAPS, {"projection": np.eye(3, dtype="float32")}, ABOUT)


_templates = Path()  # set by `kit`


def numbers(array: Array) -> np.ndarray:
    """The whole array, (COUNT, *shape), from its name alone."""
    random = np.random.default_rng(list(array.name.encode()))
    dtype = np.dtype(array.dtype)
    if dtype.kind == "b":
        return random.random((COUNT, *array.shape)) > 0.5
    if dtype.kind == "f":
        return random.uniform(2, 20, (COUNT, *array.shape)).astype("float32")
    return random.integers(0, 9, (COUNT, *array.shape)).astype(dtype)


def features(*arrays: Array) -> TargetSpec:
    """A target of these arrays."""
    return TargetSpec("features", {"version": 1}, arrays)


def coarse(seed: int = 0) -> np.ndarray:
    """Numbers of 3 mantissa bits for COARSE."""
    return np.ldexp(np.random.default_rng(seed).integers(8, 16, (COUNT, *COARSE.shape)), -3).astype("float32")


@functools.cache
def images() -> list[tuple[bytes, bytes]]:
    """(ref, test) JPEG files of all pairs, of different lengths."""
    random = np.random.default_rng(7)

    def image() -> bytes:
        return cv2.imencode(".jpg", random.integers(0, 255, (random.integers(8, 32), 32, 3), dtype=np.uint8))[1].tobytes()

    return [(image(), image()) for _ in range(COUNT)]


def create(path: Path, **changed: Any) -> Cache:
    """The empty cache."""
    remedy = {key: changed.pop(key) for key in ("remedy",) if key in changed}
    return Cache.create(path, replace(SPEC, **changed), **remedy)


def add_maps(cache: Cache, **changed: Any) -> Any:
    """A target with a compressed array and a constant."""
    own = {key: changed.pop(key) for key in ("teacher", "teacher_identity", "remedy") if key in changed}
    return cache.add_target(**{"teacher": "atom", "teacher_identity": TEACHER, **own}, target=replace(TARGET, **changed))


def write(cache: Cache, unit: Any, part: int) -> None:
    """Publishes one part."""
    start, stop = cache.bounds(part)
    crops = images()[start:stop] if unit.path == "pairs" else None
    unit.write(part, {name: numbers(array)[start:stop] for name, array in unit.arrays.items()}, crops)


def fill(path: Path) -> Cache:
    """The finished cache: a copy of one that `build` made."""
    made = _templates / path.suffix / "made"
    if not made.exists():
        put(build(made.with_suffix(".zarr")), made.with_suffix(path.suffix)).path.rename(made)
    shutil.copytree(made, path) if made.is_dir() else shutil.copy(made, path)
    return Cache.open(path)


def build(path: Path) -> Cache:
    """The finished cache, written part by part."""
    cache = create(path)
    for unit in (cache.pairs, add_maps(cache)):
        for part in range(cache.parts):
            write(cache, unit, part)
    return cache


def put(cache: Cache, path: Any) -> Cache:
    """The zarr cache moved to `path`: as it is, as an HDF5 copy, or to a bucket."""
    if isinstance(path, Path) and path.suffix != ".h5":
        Path(str(cache.path)).rename(path)
    else:
        export(cache, path)
        shutil.rmtree(str(cache.path))
    return Cache.open(path)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder (or the one file) and its content."""
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """(path, **changed): an empty cache of layout version 1, or of another that is named by `layout`."""

    def make(path: Path, layout: int = 1, **changed: Any) -> Path:
        with monkeypatch.context() as then:
            then.setattr("cache.layout.LAYOUT", layout)
            then.setattr("cache.store.LAYOUT", layout)
            put(create(path.with_name("made"), **changed), path)
            return path

    return make


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests kill processes, not the power supply: waiting for the disk would be most of their time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The functions above: test modules cannot import one another."""
    global _templates
    _templates = tmp_path_factory.mktemp("templates")
    return SimpleNamespace(**globals())


@pytest.fixture(params=["cache", "cache.h5"], ids=["zarr", "hdf5"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a cache of either backend goes, to be read."""
    return tmp_path / request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a zarr cache goes, to be written."""
    return tmp_path / "cache"
