"""A tiny world to train in: textures as crops, a tiny teacher, caches that hold every target of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import configs
import models
from cache import Cache, PairSetSpec
from configs import Config
from kdlosses import TARGETS, LiveTeacher, sizes_of, target_spec
from models import TeacherSpec
from pairs.boxes import draw_proposals
from pairs.identity import pair_identity
from pairs.stored import ROWS, crop_bytes_bound, pair_arrays
from train.check import recorded

SIZE, N, PART, CHUNK = 64, 4, 32, 8
ARCHITECTURE = "atom_resnet18tiny"
COARSE = "coarse"  # the same teacher once more, its features of 3 mantissa bits
COUNTS = {"train": 64, "val": 24}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """A folder with weights and caches, and the configurations that fit them."""

    folder: Path
    weights: Path

    def config(self, *overrides: str, setting: str = "atom_cfkd", runs: Path | None = None) -> Config:
        """A setting on the tiny caches: 2 epochs of 4 steps of 4 pairs on the processor."""
        plain = [
            "dataset=tiny",
            f"cache_dir={self.folder / 'caches'}",
            f"run_dir={runs or self.folder / 'runs'}",
            f"pairs.count={COUNTS['train']}",
            f"pairs.val_count={COUNTS['val']}",
            f"pairs.ref.size={SIZE}",
            f"pairs.test.size={SIZE}",
            f"pairs.proposals={N}",
            "student.architecture=atom_resnet18tiny",
            "train.batch=4",
            "train.batches=4",
            "train.epochs=2",
            "train.lr=0.001",
            "train.val_every=1",
            "train.val_batches=3",
            "train.log_every=2",
            "train.feed=torch",
            "train.feed_threads=1",
            "train.shuffle_window=2",
            "train.device=cpu",
        ]
        if setting not in ("gt", "atom_paper"):
            plain.append(f"teacher.architecture={ARCHITECTURE}")
        return configs.load(setting, [*plain, *overrides])

    def teacher(self, name: str = ARCHITECTURE, feature_bits: int | None = None) -> TeacherSpec:
        """The tiny teacher, under this name."""
        return TeacherSpec(name, ARCHITECTURE, self.weights, models.weights_digest(self.weights), "float32", 32, feature_bits)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, settled: Callable[[str, Path, int], models.Tracker]) -> World:
    """The session's tiny world; tests write runs into folders of their own."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    made = World(folder, folder / "teacher.safetensors")
    settled(ARCHITECTURE, made.weights, 7)
    for split in COUNTS:
        cache = make_cache(made.config(), split, folder / "caches" / split)
        fill(cache, made.config(), made.teacher(), tuple(TARGETS))
        fill(cache, made.config(), made.teacher(COARSE, 3), ("iou", "features"))
    return made


def settle(tracker: models.Tracker) -> None:
    """Gives BatchNorm the statistics of such images: with those of a new network a random teacher's features grow without bound."""
    boxes = torch.tensor([[[16.0, 16, 24, 24]]]).repeat(8, N, 1)
    with torch.no_grad():
        for _ in range(20):
            tracker(torch.randn(8, 3, SIZE, SIZE), torch.randn(8, 3, SIZE, SIZE), boxes[:, 0], boxes + torch.rand(8, N, 4))


def make_cache(config: Config, split: str, path: Path) -> Cache:
    """A pair set of textures."""
    identity = pair_identity(config.pairs, str(config.dataset), split) | {"content_sha256": "0" * 64}
    arrays = tuple(array for array in pair_arrays(config.pairs) if array.name in ROWS)
    cache = Cache.create(path, PairSetSpec(identity, identity["count"], arrays, crop_bytes_bound(config.pairs), PART, CHUNK))
    rng = np.random.default_rng(len(split))
    for part in range(cache.parts):
        start, stop = cache.bounds(part)
        n = stop - start
        test_box = np.concatenate([rng.uniform(10, 26, (n, 2)), rng.uniform(12, 26, (n, 2))], 1)
        rows = {
            "ref_box": np.concatenate([rng.uniform(16, 24, (n, 2)), rng.uniform(14, 24, (n, 2))], 1),
            "test_box": test_box,
            "proposals": draw_proposals(test_box, len(split), start, 2**50, config.pairs),
            "brightness": rng.uniform(0.8, 1.2, (n, 2)) if split == "train" else np.ones((n, 2)),
            "grey": rng.uniform(size=n) < (0.2 if split == "train" else 0),
        }
        crops = [(texture(rng, config.pairs.ref.size), texture(rng, config.pairs.test.size)) for _ in range(n)]
        cache.pairs.write(part, {k: v if k == "grey" else v.astype(np.float32) for k, v in rows.items()}, crops=crops)
    return cache


def texture(rng: np.random.Generator, size: int) -> bytes:
    """A JPEG of smooth random colours."""
    noise = cv2.resize(rng.uniform(0, 255, (8, 8, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    good, encoded = cv2.imencode(".jpg", noise.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert good
    return encoded.tobytes()


def fill(cache: Cache, config: Config, teacher: TeacherSpec, names: Sequence[str]) -> None:
    """Adds targets of the teacher, as precompute does."""
    sizes, live = sizes_of(config, teacher), LiveTeacher(teacher.load(CPU), teacher.feature_bits)
    specs = [target_spec(name, sizes) for name in names]
    units = {spec.name: cache.add_target(teacher.name, teacher.identity(), spec) for spec in specs}
    projection = {layer: torch.from_numpy(matrix) for spec in specs for layer, matrix in spec.constants.items()}
    for part in range(cache.parts):
        start, stop = cache.bounds(part)
        (ref, test), boxes = recorded(cache, range(start, stop), config.pairs, "torch", CPU)
        numbers = live.targets(ref, test, boxes, names, projection)
        for name, unit in units.items():
            unit.write(part, {array: numbers[f"{name}/{array}"].numpy() for array in unit.arrays})
    timed = {"seconds": 2.0, "teacher_pairs": cache.count, "teacher_seconds": 0.5, "waited_seconds": 0.1, "device": "cpu, 1 threads"}
    cache.add_history(
        {
            "setting": "atom_cfkd",
            "teacher": teacher.name,
            "teacher_weights": str(teacher.weights),
            "decoder": "opencv",
            "targets": list(names),
            "pairs": cache.count,
        }
        # reports count the work of one teacher
        | (timed if teacher.name == ARCHITECTURE else {})
    )


@pytest.fixture(scope="session")
def filled() -> Callable[[Config, str, Path, TeacherSpec, Sequence[str]], Cache]:
    """(configuration, split, folder, teacher, targets): a cache and one more teacher's targets in it."""

    def make(config: Config, split: str, path: Path, teacher: TeacherSpec, names: Sequence[str]) -> Cache:
        cache = Cache.open(path) if path.exists() else make_cache(config, split, path)
        fill(cache, config, teacher, names)
        return cache

    return make


@pytest.fixture(scope="session")
def settled() -> Callable[[str, Path, int], models.Tracker]:
    """(architecture, path, seed): a random network that BatchNorm knows such images with, and its weights in a file."""

    def make(architecture: str, path: Path, seed: int) -> models.Tracker:
        torch.manual_seed(seed)
        tracker = models.build(architecture)
        settle(tracker)
        models.save_weights(tracker, path)
        return tracker

    return make


@pytest.fixture(scope="session")
def textured() -> Callable[[Config, str, Path], Cache]:
    """`make_cache`, for tests that need other pair sets than the world's."""
    return make_cache
