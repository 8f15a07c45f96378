"""A tiny world to train in: textures as crops, a tiny teacher, caches that hold every target of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import configs
import models
from cache import Array, Cache
from configs import Config
from kdlosses import TARGETS, Pairs, compute, draw_projection, layers_of
from models.boxes import draw_proposals
from models.preprocess import VERSION
from train.online import recorded

SIZE, N, PART, CHUNK = 64, 4, 32, 8
ARCHITECTURE = "atom_resnet18tiny"
COARSE = "coarse"  # the same teacher once more, its features of 3 mantissa bits
COUNTS = {"train": 64, "val": 24}


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
            f"pairs.crop_size={SIZE}",
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


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, settled: Callable[[str, Path, int], models.Tracker]) -> World:
    """The session's tiny world; tests write runs into folders of their own."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    weights = folder / "teacher.safetensors"
    tracker = settled(ARCHITECTURE, weights, 7)
    made = World(folder, weights)
    for split in COUNTS:
        cache = make_cache(made.config(), split, folder / "caches" / split)
        fill(cache, models.Teacher(tracker), weights, tuple(TARGETS))
        fill(cache, models.Teacher(tracker), weights, ("iou", "features"), group=COARSE, feature_bits=3)
    return made


def settle(tracker: models.Tracker) -> None:
    """Gives BatchNorm the statistics of such images: with those of a new network a random teacher's features grow without bound."""
    boxes = torch.tensor([[[16.0, 16, 24, 24]]]).repeat(8, N, 1)
    with torch.no_grad():
        for _ in range(20):
            tracker(torch.randn(8, 3, SIZE, SIZE), torch.randn(8, 3, SIZE, SIZE), boxes[:, 0], boxes + torch.rand(8, N, 4))


def make_cache(config: Config, split: str, path: Path) -> Cache:
    """A pair set of textures."""
    identity = configs.pair_identity(config.pairs, str(config.dataset), split) | {"content_sha256": "0" * 64}
    arrays = [Array("ref_box", (4,), "float32", ""), Array("test_box", (4,), "float32", ""), Array("proposals", (N, 4), "float32", "")]
    arrays += [Array("brightness", (2,), "float32", ""), Array("grey", (), "bool", "")]
    count = identity["count"]
    cache = Cache.create(path, identity, count, crop_bytes_bound=30_000, arrays=arrays, part=PART, chunk=CHUNK)
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
        crops = [(texture(rng), texture(rng)) for _ in range(n)]
        cache.pairs.write(part, {k: v if k == "grey" else v.astype(np.float32) for k, v in rows.items()}, crops=crops)
    return cache


def texture(rng: np.random.Generator) -> bytes:
    """A JPEG of smooth random colours."""
    noise = cv2.resize(rng.uniform(0, 255, (8, 8, 3)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    good, encoded = cv2.imencode(".jpg", noise.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert good
    return encoded.tobytes()


def fill(
    cache: Cache,
    teacher: models.Teacher,
    weights: Path,
    names: Sequence[str],
    group: str = ARCHITECTURE,
    feature_bits: int | None = None,
) -> None:
    """Adds targets of the teacher, as precompute does."""
    channels, _ = models.network_sizes(ARCHITECTURE)
    identity = {
        "architecture": teacher.architecture,
        "weights_sha256": models.weights_digest(weights),
        "dtype": "float32",
        "preprocess_version": VERSION,
    }
    projection = draw_projection(0, channels, teacher.channels)
    units = {}
    for name in names:
        target = TARGETS[name]
        arrays = target.arrays(teacher.channels, teacher.numbers, N, SIZE, student_channels=channels)
        facts = target.identity(feature_bits)
        if target.projected:
            facts |= {"projection_seed": 0, "student_channels": {layer: channels[layer] for layer in target.layers}}
        constants = {layer: matrix.numpy() for layer, matrix in projection.items()} if target.projected else {}
        compress = target.whole and feature_bits is not None
        units[name] = cache.add_target(group, name, identity, facts, [Array(*array, compress=compress) for array in arrays], constants)
    for part in range(cache.parts):
        start, stop = cache.bounds(part)
        seen = recorded(cache, range(start, stop), "torch", torch.device("cpu"), SIZE)
        pairs: Pairs = seen.pairs
        outputs = teacher(seen.ref, seen.test, pairs.ref_box, pairs.proposals, layers_of(names))
        found = compute(names, outputs, pairs, projection, feature_bits)
        for name, unit in units.items():
            unit.write(part, {array: found[f"{name}/{array}"].numpy() for array in unit.arrays})
    timed = {"seconds": 2.0, "teacher_pairs": cache.count, "teacher_seconds": 0.5, "waited_seconds": 0.1, "device": "cpu, 1 threads"}
    cache.add_history(
        {
            "setting": "atom_cfkd",
            "teacher": group,
            "teacher_weights": str(weights),
            "decoder": "opencv",
            "targets": list(names),
            "pairs": cache.count,
        }
        # reports count the work of one teacher
        | (timed if group == ARCHITECTURE else {})
    )


@pytest.fixture(scope="session")
def filled():
    """(configuration, split, folder, teacher, weights, targets, group=, feature_bits=): a cache and one more teacher's targets in it."""

    def make(config: Config, split: str, path: Path, teacher: models.Teacher, weights: Path, names: Sequence[str], **options: Any) -> Cache:
        cache = Cache.open(path) if path.exists() else make_cache(config, split, path)
        fill(cache, teacher, weights, names, **options)
        return cache

    return make


@pytest.fixture(scope="session")
def settled():
    """(architecture, path, seed): a random network that BatchNorm knows such images with, and its weights in a file."""

    def make(architecture: str, path: Path, seed: int) -> models.Tracker:
        torch.manual_seed(seed)
        tracker = models.build(architecture)
        settle(tracker)
        models.save_weights(tracker, path)
        return tracker

    return make


@pytest.fixture(scope="session")
def textured():
    """`make_cache`, for tests that need other pair sets than the world's."""
    return make_cache
