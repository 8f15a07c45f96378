"""Template and search image cut differently, as OSTrack does (128 pixels at factor 2, 256 at factor 4): cached, trained from, looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models
import precompute.__main__ as precompute
import train.__main__ as training
from cache import Cache
from cache.verify import verify
from configs.cli import run
from train.log import read_metrics

TINY = "atom_resnet18tiny"
SIZES = ("pairs.ref.size=128", "pairs.ref.area_factor=2", "pairs.test.size=256", "pairs.test.area_factor=4", "pairs.test.center_jitter=3")
PAIRS = ("pairs.count=12", "pairs.val_count=4", "pairs.proposals=4", "train.feed=torch")
SHORT = ("train.batch=4", "train.batches=3", "train.epochs=1", "train.val_batches=1", "train.device=cpu", "train.log_every=1")
SLOW = "train.lr=1e-5"  # at the settings' own rate any rounding parts two runs within some steps
NETWORKS = (f"teacher.architecture={TINY}", f"student.architecture={TINY}")
STRIDES = {"conv1": 2, "layer1": 4, "layer2": 8, "layer3": 16}


@pytest.fixture(scope="module")
def place(demo_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with caches of both splits that hold every target, and the teacher's weights."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("geometry")
    torch.manual_seed(0)
    models.save_weights(models.build(TINY), folder / "teacher.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        places = {"DEMO_ROOT": demo_video, "CACHE_DIR": folder / "caches", "RUN_DIR": folder / "runs", "TEACHONCE_INDEX": folder / "index"}
        for name, value in places.items():
            patch.setenv(name, str(value))
        given = [
            "cache",
            "--dataset",
            "demo",
            "--setting",
            "atom_cfkd",
            "--targets",
            "all",
            "--teacher",
            str(folder / "teacher.safetensors"),
        ]
        assert run(precompute.main, [*given, "--device", "cpu", "--threads", "1", "teacher.batch=4", *SIZES, *PAIRS, *NETWORKS]) == 0
        yield folder


def train(setting: str, *overrides: str) -> int:
    return run(training.main, ["run", "--setting", setting, "dataset=demo", *SIZES, *PAIRS, *SHORT, *NETWORKS, *overrides])


def test_crops_and_targets_have_the_size_of_their_image(place):
    cache = Cache.open(next((place / "caches").glob("demo-train-*")))
    refs, tests = cache.read_crops(0, cache.count)
    for images, side in ((refs, 128), (tests, 256)):
        assert all(cv2.imdecode(image, cv2.IMREAD_COLOR).shape == (side, side, 3) for image in images)
    rows = cache.pairs.read(0, cache.count)
    np.testing.assert_allclose(rows["ref_box"][:, :2] + rows["ref_box"][:, 2:] / 2, 63.5, atol=1e-3)
    # at factor 2 the target is half of the ref crop's side, at factor 4 on average a quarter of the test crop's
    assert np.allclose(np.sqrt(rows["ref_box"][:, 2:].prod(1)), 64, rtol=0.05)
    channels = models.network_sizes(TINY)[0]
    units = {name: unit for (_, name), unit in cache.targets().items()}
    for layer, stride in STRIDES.items():
        deep = "" if layer in ("layer2", "layer3") else "_shallow"
        for image, side in (("ref", 128 // stride), ("test", 256 // stride)):
            assert units[f"abs_sum{deep}"].arrays[f"{layer}_{image}"].shape == (side, side)
            for name in ("features", "projected"):
                assert units[name + deep].arrays[f"{layer}_{image}"].shape == (channels[layer], side, side)
        assert units["response"].arrays[f"{layer}_weighted"].shape == (256 // stride, 256 // stride)
    assert verify(cache, deep=True) == []


@pytest.mark.parametrize("setting", ["atom_cfkd", "atom_tskd", "atom_compression"])
def test_a_student_trains_and_the_cache_holds_what_the_teacher_says(place, setting, capsys):
    assert train(setting, SLOW, "train.check_pairs=6") == 0
    assert "check: 6 pairs" in capsys.readouterr().out
    assert train(setting, SLOW, "train.name=online", "train.teacher=online") == 0
    curves = [
        [record for record in read_metrics(place / "runs" / setting / name) if record["kind"] == "train"] for name in ("seed0", "online")
    ]
    assert len(curves[0]) == 3 and all(np.isfinite(record["loss"]) for record in curves[0])
    for cached, online in zip(*curves, strict=True):
        for term, value in cached["terms"].items():
            assert value == pytest.approx(online["terms"][term], rel=5e-3, abs=1e-6)
    picture = next((place / "runs" / setting / "seed0" / "pictures").glob("*.png"))
    assert cv2.imread(str(picture)).shape[2] == 3


def test_fresh_pairs_are_mirrored_each_in_its_own_crop(place):
    assert train("atom_cfkd", "train.name=fresh", "train.augment=fresh", "train.fresh=[flip,proposals]") == 0


def test_another_geometry_is_refused_with_the_difference(place, capsys):
    assert run(training.main, ["run", "--setting", "atom_cfkd", "dataset=demo", *SIZES[:2], *PAIRS, *SHORT, *NETWORKS, "train.name=x"]) == 2
    error = capsys.readouterr().err
    assert "test.size: cached 256, wanted 288" in error and error.count("\n") == 1
