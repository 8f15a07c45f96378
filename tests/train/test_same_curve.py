"""The promise behind the cache: from one seed, a run that asks the teacher and one that reads the cache learn the same.

What differs is the rounding of stored targets to float16, 2^-11 of a number. Adam makes more of it: a weight whose gradient is nearly
nothing may move the other way, and BatchNorm over 4 pairs spreads that, so that 50 steps at the settings' own rates are chaos: any
rounding parts two runs. At RATE they stay together, and the students still learn far more than what the runs differ by.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import configs
import models
from kdlosses import TARGETS, LiveTeacher
from models import TeacherSpec
from pairs.batch import Batch
from train.log import read_metrics
from train.loop import Meter, PhaseLoop
from train.run import run

STEPS, PASS, RATE = 50, 8, 5e-6
"""Steps of a run, steps of one pass over the 32 pairs, Adam's rate."""
TOLERANCE = STEPS * 2**-11
"""Of a term at any step, relative to its mean over the run: one rounding of a target a step, if all of them added up."""
TINY, DRNET = "student.architecture=atom_resnet18tiny", "drnet_mobilenetsmall"
PHASES = (
    "phases=[{epochs: 1, freeze: [head], losses: {fidelity: 100, correlation_filter: 0.01}},"
    " {epochs: 1, freeze: [backbone], losses: {teacher_soft: 1, adaptive_hard: 0.1}}]"
)
TRAINED = ("losses.projected_fidelity.projection=trained",)
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
    "atom_compression trained": (TINY, *TRAINED),
    "atom_compression coarse": (TINY, *TRAINED, "teacher.name=coarse", "teacher.feature_bits=3"),
    "drnet_cfkd": (f"teacher.architecture={DRNET}",),
}
ALL = "TEACHONCE_ALL_CURVES"
"""Environment: any value follows every run of RUNS, not those alone that between them have every loss, network and kind of target."""
USUAL = ("ts", "sep", "atom_cfkd", "atom_tskd", "atom_tsskd", "atom_compression coarse", "drnet_cfkd")
FOLLOWED = tuple(RUNS) if ALL in os.environ else USUAL
# Terms that a comparison of two losses turns on and off.
SWITCHED = {"adaptive_hard", "mutual_students"}

Curve = list[dict[str, float]]


@pytest.fixture(scope="module")
def curve(world, filled, settled, tmp_path_factory):
    """(name of RUNS, overrides) -> the terms of every step of that run."""
    folder = tmp_path_factory.mktemp("curves")
    ours = replace(world, folder=folder)
    settled(DRNET, folder / "drnet.safetensors", 7)
    digest = models.weights_digest(folder / "drnet.safetensors")
    box_teacher = TeacherSpec(DRNET, DRNET, folder / "drnet.safetensors", digest, "float32", 32, None)
    config = ours.config("pairs.count=32", "pairs.val_count=8")
    for split in ("train", "val"):
        path = folder / "caches" / split
        filled(config, split, path, world.teacher(), [name for name in TARGETS if not name.endswith("_shallow")])
        filled(config, split, path, world.teacher("coarse", 3), ["iou", "features"])
        filled(config, split, path, box_teacher, ["iou", "abs_sum"])

    known: dict[str, Curve] = {}

    def follow(name: str, *overrides: str) -> Curve:
        # cached runs are kept: tests change online ones on their way
        if overrides != ("train.teacher=cached",):
            return run_once(name, *overrides)
        if name not in known:
            known[name] = run_once(name, *overrides)
        return known[name]

    def run_once(name: str, *overrides: str) -> Curve:
        setting = name.split()[0]
        plain = ("pairs.count=32", "pairs.val_count=8", "train.epochs=1", f"train.batches={STEPS}", f"train.lr={RATE}")
        quick = ("train.val_batches=1", "train.log_every=1", "train.check_pairs=0", "train.pictures=0")
        student = f"student.architecture={configs.load(setting).student.architecture}"
        runs = tmp_path_factory.mktemp("runs")
        done = run(ours.config(*plain, *quick, student, *RUNS[name], *overrides, setting=setting, runs=runs))
        terms = [record["terms"] for record in read_metrics(done) if record["kind"] == "train"]
        assert len(terms) == STEPS
        return terms

    return follow


@pytest.fixture
def stranger(settled: Any, tmp_path: Path) -> Path:
    """Weights of another teacher of the same architecture."""
    settled("atom_resnet18tiny", tmp_path / "stranger.safetensors", 8)
    return tmp_path / "stranger.safetensors"


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Filled by a run: the loss of its last PASS steps, had the students stood still since the phase began."""
    found: list[float] = []
    start: dict[int, torch.nn.Module] = {}
    plain = PhaseLoop.one_step

    def watched(loop: PhaseLoop, batch: Batch, meter: Meter) -> None:
        if loop.number not in start and not found:
            start[loop.number] = copy.deepcopy(loop.step)
        if loop.position.step >= STEPS - PASS and len(found) < PASS:
            with torch.no_grad():
                targets = loop.targets(batch, loop.setup.plan.train[loop.number])
                terms, _ = start[loop.number](batch.ref, batch.test, batch.boxes, targets, loop.position.phase_epoch)
            found.append(sum(float(term) for term in terms.values()))
        plain(loop, batch, meter)

    monkeypatch.setattr(PhaseLoop, "one_step", watched)
    return found


def deviations(found: Curve, wanted: Curve) -> dict[str, float]:
    """Term -> its largest difference at one step, over its mean; `loss` is the sum of the last phase's terms.

    Left out are steps at which a term that a comparison switches is on in one run alone.
    """
    worst: dict[str, float] = {}
    for name in {name for step in wanted for name in step}:
        values = [(a[name], b[name]) for a, b in zip(found, wanted, strict=True) if name in b and not switched(a, b, name)]
        worst[name] = largest(values)
    last = [(a, b) for a, b in zip(found, wanted, strict=True) if b.keys() == wanted[-1].keys() and not any(switched(a, b, n) for n in b)]
    worst["loss"] = largest([(sum(a.values()), sum(b.values())) for a, b in last])
    return worst


def largest(values: list[tuple[float, float]]) -> float:
    """Largest difference of two curves over the mean of the second; 0 where that is 0."""
    mean = sum(b for _, b in values) / len(values)
    return max(abs(a - b) for a, b in values) / mean if mean else max(abs(a) for a, _ in values)


def switched(one: dict[str, float], other: dict[str, float], name: str) -> bool:
    """Whether a comparison of losses turned a term on in one run and off in the other."""
    return bool(SWITCHED & set(name.split("/"))) and (one[name] == 0) != (other[name] == 0)


@pytest.mark.parametrize("name", FOLLOWED)
def test_online_and_cached_follow_the_same_curve(curve, untrained, name):
    online = curve(name, "train.teacher=online")
    fall = 1 - sum(sum(step.values()) for step in online[-PASS:]) / sum(untrained)
    cached = curve(name, "train.teacher=cached")
    worst = deviations(cached, online)
    assert max(worst.values()) < TOLERANCE, worst
    # the same bound would hold for two students that learn nothing: what they learn must be far more than what they differ by
    assert fall > 10 * worst["loss"], (fall, worst["loss"])
    assert sum(switched(a, b, term) for a, b in zip(cached, online, strict=True) for term in b) <= 2
    assert cached != online, "the online run must not have read the cache"


def test_what_differs_is_the_rounding_to_float16_and_nothing_else(curve, monkeypatch):
    cached = curve("resnet18tiny", "train.teacher=cached")
    plain = LiveTeacher.targets
    monkeypatch.setattr(LiveTeacher, "targets", lambda *given: {name: value.half().float() for name, value in plain(*given).items()})
    worst = deviations(curve("resnet18tiny", "train.teacher=online"), cached)
    assert max(worst.values()) < TOLERANCE / 100


@pytest.mark.parametrize("other", ["train.shuffle_window=1", "teacher"])
def test_another_order_or_teacher_gives_another_curve(curve, stranger, other):
    change = (other,) if other != "teacher" else (f"teacher.weights={stranger}", "teacher.name=stranger", "train.teacher=online")
    worst = deviations(curve("resnet18tiny", *change), curve("resnet18tiny", "train.teacher=cached"))
    assert worst["loss"] > 3 * TOLERANCE and worst["teacher_soft"] > 10 * TOLERANCE, worst
