"""A small cache in three parts of 8, 8 and 4 pairs, on both backends, and the numbers that belong into it."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from cache import Array, Cache

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
MAPS = [Array("layer2", (2, 6, 6), "float16", "sum of |U|"), Array("layer3", (2, 3, 3), "float16", "the same", True)]


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


@functools.cache
def images() -> list[tuple[bytes, bytes]]:
    """(ref, test) JPEG files of all pairs, of different lengths."""
    random = np.random.default_rng(7)
    made = []
    for _ in range(COUNT):
        pair = [random.integers(0, 255, (random.integers(8, 32), 32, 3), dtype=np.uint8) for _ in range(2)]
        made.append(tuple(cv2.imencode(".jpg", image)[1].tobytes() for image in pair))
    return made


def create(path: Path, **changed: Any) -> Cache:
    """The empty cache."""
    options = {"crop_bytes_bound": 4000, "arrays": PAIRS, "part": PART, "chunk": CHUNK, "metadata": {"sequences": ["a", "b"]}}
    identity = changed.pop("identity", IDENTITY)
    return Cache.create(path, identity, changed.pop("count", COUNT), **{**options, **changed})


def add_maps(cache: Cache, **changed: Any) -> Any:
    """A target with a compressed array and a constant."""
    options = {
        "teacher_identity": TEACHER,
        "target_identity": {"version": 1},
        "arrays": MAPS,
        "constants": {"projection": np.eye(3, dtype="float32")},
        "about": ABOUT,
    }
    return cache.add_target(changed.pop("teacher", "atom"), changed.pop("target", "maps"), **{**options, **changed})


def write(cache: Cache, unit: Any, part: int) -> None:
    """Publishes one part."""
    start, stop = cache.bounds(part)
    crops = images()[start:stop] if unit.path == "pairs" else None
    unit.write(part, {name: numbers(array)[start:stop] for name, array in unit.arrays.items()}, crops)


def fill(path: Path) -> Cache:
    """The finished cache: a copy of one that `build` made."""
    made = _templates / path.suffix / "made"
    if not made.exists():
        build(made.with_suffix(path.suffix)).path.rename(made)
    shutil.copytree(made, path) if made.is_dir() else shutil.copy(made, path)
    return Cache.open(path)


def build(path: Path) -> Cache:
    """The finished cache, written part by part."""
    cache = create(path)
    for unit in (cache.pairs, add_maps(cache)):
        for part in range(cache.parts):
            write(cache, unit, part)
    return cache


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder (or the one file) and its content."""
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests kill processes, not the power supply: waiting for the disk would be most of their time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The functions above: test modules cannot import one another."""
    global _templates
    _templates = tmp_path_factory.mktemp("templates")
    names = [
        "COUNT",
        "PART",
        "CHUNK",
        "IDENTITY",
        "PAIRS",
        "TEACHER",
        "ABOUT",
        "MAPS",
        "numbers",
        "images",
        "create",
        "add_maps",
        "write",
        "fill",
        "build",
        "tree",
    ]
    return SimpleNamespace(**{name: globals()[name] for name in names})


@pytest.fixture(params=["cache", "cache.h5"], ids=["zarr", "hdf5"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a cache of either backend goes."""
    return tmp_path / request.param
