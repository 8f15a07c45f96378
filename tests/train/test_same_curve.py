"""The promise behind the cache: from one seed, a run that asks the teacher and one that reads the cache learn the same.

What differs is the rounding of stored targets to float16, 2^-11 of a number. Adam makes more of it: a weight whose gradient is nearly nothing may
move the other way, and BatchNorm over batches of 4 pairs spreads that, so at the settings' own rates 50 steps are chaos (two runs
that differ by float32 rounding part as well). At RATE they are not, and the loss still moves by more than the runs differ.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import configs
import models
from kdlosses import TARGETS
from train.log import read_metrics
from train.online import OnlineTeacher
from train.run import run

STEPS, PASS, RATE = 50, 8, 1e-5
"""Steps of a run, steps of one pass over the 32 pairs, Adam's rate."""
ROUNDING = 2**-11
TINY = "student.architecture=atom_resnet18tiny"
PHASES = (
    "phases=[{epochs: 1, freeze: [head], losses: {fidelity: 100, correlation_filter: 0.01}},"
    " {epochs: 1, freeze: [backbone], losses: {teacher_soft: 1, adaptive_hard: 0.1}}]"
)
# Students are the settings' own where that is quick. Target response divides by the sum of a correlation over the batch, which for
# MobileNetV2's signed features may come close to 0: there the loss itself is not continuous, whatever its targets are stored as.
RUNS = {
    "ts": (TINY,),
    "ts_ah": (TINY,),
    "ts_ah_fid": (TINY,),
    "sep": (TINY, PHASES, f"train.batches={STEPS // 2}"),
    "atom_cfkd": (),
    "resnet18medium": (),
    "resnet18small": (),
    "resnet18tiny": (),
    "atom_tskd": (TINY,),
    "atom_tskd gaussian": (TINY, "losses.target_response.weights=gaussian"),
    "atom_tsskd": (TINY,),
    "atom_compression": (TINY,),
    "atom_compression trained": (TINY, "losses.projected_fidelity.projection=trained"),
    "drnet_cfkd": ("teacher.architecture=drnet_mobilenetsmall",),
}

Curve = list[dict[str, float]]


@pytest.fixture(scope="module")
def curve(world, filled, settled, tmp_path_factory):
    """(name of RUNS, overrides) -> the terms of every step of that run."""
    folder = tmp_path_factory.mktemp("curves")
    ours = replace(world, folder=folder)
    tracker = models.build("atom_resnet18tiny")
    models.load_weights(tracker, world.weights)
    teacher = models.Teacher(tracker)
    drnet = folder / "drnet.safetensors"
    box_teacher = models.Teacher(settled("drnet_mobilenetsmall", drnet, 7))
    config = ours.config("pairs.count=32", "pairs.val_count=8")
    for split in ("train", "val"):
        path = folder / "caches" / split
        filled(config, split, path, teacher, world.weights, [name for name in TARGETS if not name.endswith("_shallow")])
        filled(config, split, path, box_teacher, drnet, ["iou", "abs_sum"], group="drnet_mobilenetsmall")

    def follow(name: str, *overrides: str) -> Curve:
        setting = name.split()[0]
        plain = ("pairs.count=32", "pairs.val_count=8", "train.epochs=1", f"train.batches={STEPS}", f"train.lr={RATE}")
        quick = ("train.val_batches=1", "train.log_every=1", "train.check_pairs=0", "train.pictures=0")
        student = f"student.architecture={configs.load(setting).student.architecture}"
        runs = tmp_path_factory.mktemp("runs")
        done = run(ours.config(*plain, *quick, student, *RUNS[name], *overrides, setting=setting, runs=runs))
        found = [record["terms"] for record in read_metrics(done) if record["kind"] == "train"]
        assert len(found) == STEPS
        return found

    return follow


def deviations(found: Curve, wanted: Curve) -> dict[str, float]:
    """Term -> its largest difference at one step, over its mean; `loss` is the sum of the terms of a phase."""
    worst: dict[str, float] = {}
    for first in {tuple(step) for step in wanted}:  # one set of terms a phase
        pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if tuple(b) == first]
        for name in (*first, "loss"):
            values = [tuple(sum(step.values()) if name == "loss" else step[name] for step in pair) for pair in pairs]
            mean = sum(b for _, b in values) / len(values)
            worst[name] = max(worst.get(name, 0.0), max(abs(a - b) for a, b in values) / max(mean, 1e-12))
    return worst


def fall(wanted: Curve) -> float:
    """How much of the first phase's loss was gone, as a share: its last pass over the pairs against its first one."""
    losses = [sum(step.values()) for step in wanted if tuple(step) == tuple(wanted[0])]
    losses = losses[: len(losses) // PASS * PASS]
    return 1 - sum(losses[-PASS:]) / sum(losses[:PASS])


@pytest.mark.parametrize("name", RUNS)
def test_online_and_cached_follow_the_same_curve(curve, name):
    cached, online = curve(name, "train.teacher=cached"), curve(name, "train.teacher=online")
    worst = deviations(cached, online)
    print("MEASURED", name, {k: f"{v:.1e}" for k, v in worst.items()}, "fall", f"{fall(online):.4f}")
    assert cached != online, "the online run must not have read the cache"
