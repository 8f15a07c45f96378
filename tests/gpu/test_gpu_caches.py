"""Whole commands on a GPU and on the processor: caches that agree, runs that go on from one to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import configs.cli
import models
import precompute.__main__ as command
from cache import Cache
from train.log import read_metrics
from train.run import run

pytestmark = pytest.mark.gpu
SMALL = ("pairs.count=48", "pairs.val_count=16", "pairs.ref.size=64", "pairs.test.size=64")
TARGETS = {"iou": 0.05, "abs_sum": 0.05, "response": 0.1}
"""Target -> relative error between the caches of two devices, each with its own JPEG decoder"""
LOSSES = 0.05
"""Relative error of the losses that a run of another device gives"""


@pytest.fixture(scope="module")
def caches(device: torch.device, demo_video: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the caches that each device made."""
    folder, made = tmp_path_factory.mktemp("devices"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_ROOT", str(demo_video))
        patch.setenv("TEACHONCE_INDEX", str(folder / "index"))
        for name in ("here", "there"):
            patch.setenv("CACHE_DIR", str(folder / name))
            where = str(device) if name == "there" else "cpu"
            given = ["cache", "--dataset", "demo", "--setting", "atom_cfkd", "--targets", " ".join(TARGETS), "--device", where]
            assert configs.cli.run(command.main, [*given, *SMALL]) == 0
            made[name] = folder / name
    return made


def test_a_cache_made_on_the_gpu_is_that_of_the_processor(caches):
    here, there = (Cache.open(next(path.glob("demo-train-*"))) for path in caches.values())
    for name, array in here.pairs.read(0, 48).items():
        np.testing.assert_array_equal(there.pairs.read(0, 48)[name], array)
    assert [crop.tobytes() for crop in here.read_crops(0, 48)[1]] == [crop.tobytes() for crop in there.read_crops(0, 48)[1]]
    for (teacher, name), unit in here.targets().items():
        other = there.target(teacher, name)
        assert other is not None
        for key, array in unit.read(0, 48).items():
            wanted, found = array.astype(np.float64), other.read(0, 48)[key].astype(np.float64)
            assert np.linalg.norm(found - wanted) < TARGETS[name] * np.linalg.norm(wanted), key


@pytest.mark.parametrize("first", ["cpu", "gpu"])
def test_a_run_goes_on_on_the_other_device(first, device, caches, tmp_path):
    def trained(runs: Path, epochs: int, where: str) -> list[dict[str, Any]]:
        config = configs.load(
            "atom_cfkd",
            [
                *SMALL,
                "dataset=demo",
                f"cache_dir={caches['here']}",
                f"run_dir={runs}",
                "student.architecture=atom_resnet18tiny",
                f"teacher.architecture={models.DEMO_TEACHER.stem}",
                f"teacher.weights={models.DEMO_TEACHER}",
                "train.batch=4",
                "train.batches=6",
                f"train.epochs={epochs}",
                "train.lr=0.00001",
                "train.log_every=1",
                "train.val_every=1",
                "train.val_batches=2",
                "train.pictures=0",
                "train.compile=false",
                f"train.device={where}",
            ],
        )
        return read_metrics(run(config))

    order = ["cpu", str(device)] if first == "cpu" else [str(device), "cpu"]
    trained(tmp_path / "moved", 1, order[0])
    moved, stayed = trained(tmp_path / "moved", 2, order[1]), trained(tmp_path / "stayed", 2, "cpu")
    assert [(line["kind"], line["step"]) for line in moved] == [(line["kind"], line["step"]) for line in stayed]
    for left, right in zip(moved, stayed, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=LOSSES)
