"""Two parts of `make bench` that are measured on their own: every objective beside the student, and a target added to a finished cache."""

from __future__ import annotations

from dataclasses import replace

import torch

import configs
import models
from bench.cutting import teacher_alone
from bench.ground import Ground, ready_batch
from bench.steps import objective_alone, student_alone
from bench.turns import Length, Measured, Work, take_turns, timed
from cache import Cache
from kdlosses import LiveTeacher, build_objectives

SETTINGS = ("gt", "ts_ah", "ts_ah_fid", "atom_cfkd", "atom_tskd", "atom_tsskd", "atom_compression")
GROWN = (("atom_tskd", "response"), ("atom_compression", "projected"), ("atom_compression", "features"))
"""(setting, target) that are added"""


def objectives(ground: Ground, length: Length) -> dict[str, Measured]:
    """The losses of every setting on given features, forward and backward, beside the student's."""
    config, device = ground.config(), ground.device
    batch = ready_batch(config.train.batch, config, device)
    torch.manual_seed(0)
    student, tracker = models.build("atom_mobilenetsmall").to(device), models.build("atom_resnet18").to(device)
    teacher, boxes = LiveTeacher(models.TeacherNetwork(tracker)), batch.boxes
    with torch.no_grad():
        outputs = student(batch.ref, batch.test, boxes.ref_box, boxes.proposals, models.LAYERS)
    kinds: dict[str, Work] = {"student": (student_alone(ground), len(boxes))}
    for setting in SETTINGS:
        own = configs.load(setting, [f"pairs.{image}.size={getattr(config.pairs, image).size}" for image in ("ref", "test")])
        objective = build_objectives(own, "atom_resnet18" if own.teacher else None)[0].to(device)
        targets = teacher.targets(batch.ref, batch.test, boxes, objective.needs.targets, objective.projection)
        kinds[setting] = (objective_alone(objective, outputs, targets, boxes), len(boxes))
    return take_turns(kinds, length, device)


def growth(ground: Ground, turns: int) -> dict[str, Measured]:
    """A target added to the finished cache, start-up left out, beside the teacher's forward pass (timed before and after it)."""
    config, device = ground.config(), ground.device
    assert config.teacher is not None
    forward, measured = teacher_alone(config, ground), {"teacher": Measured()}
    for setting, target in GROWN:
        measured["teacher"].seconds += [timed(forward, device) / config.teacher.batch for _ in range(turns)]
        replace(ground, setting=setting).fill(targets=target, splits=("train",))
        record = Cache.open(next(ground.folder.glob("caches/demo-train-*"))).history()[-1]
        measured[target] = Measured([record["seconds"] / config.pairs.count])
        measured["teacher"].seconds += [timed(forward, device) / config.teacher.batch for _ in range(turns)]
    return measured
