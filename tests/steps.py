"""Steps of a run without a cache, for tests of devices: any setting at a small size, random pairs, the teacher in every step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import configs
import models
from configs import Config
from kdlosses import LiveTeacher, build_objectives
from pairs.batch import Batch, Boxes
from train.checkpoint import Position
from train.halt import Halt
from train.inputs import Inputs
from train.log import RunLog
from train.loop import PhaseLoop, Setup
from train.plan import Origin, Plan
from train.students import build_students

SIZE, B = 64, 4


def config_of(setting: str, *changes: str) -> Config:
    """A setting at a small size; its student is its own, the teacher a small one of the same kind."""
    own = configs.load(setting)
    small = [
        *(f"pairs.{image}.size={SIZE}" for image in ("ref", "test")),
        f"train.batch={B}",
        "student.weights=null",
        "train.compile=false",
    ]
    if own.teacher is not None:
        small.append(f"teacher.architecture={'drnet_mobilenetsmall' if setting.startswith('drnet') else 'atom_resnet18tiny'}")
    return configs.load(setting, [*small, *changes])


def random_batch(config: Config, device: torch.device, seed: int = 3) -> Batch:
    """Random images and boxes of B pairs, the same on every device."""
    torch.manual_seed(seed)
    ref, test = (torch.randn(B, 3, image.size, image.size).to(device) for image in config.pairs.images)
    box = SIZE * torch.tensor([[0.3, 0.35, 0.3, 0.25]]).repeat(B, 1)
    proposals = (box[:, None] + 4 * torch.rand(B, config.pairs.proposals, 4)).to(device)
    boxes = Boxes(box.to(device), box.to(device), proposals, config.pairs.ref, config.pairs.test)
    return Batch(ref, test, boxes, {}, False, np.zeros(B, np.int64), np.arange(B))


def live_teacher(config: Config, device: torch.device) -> LiveTeacher:
    """The teacher on the device."""
    assert config.teacher is not None
    torch.manual_seed(4)
    network = models.TeacherNetwork(models.build(config.teacher.architecture), config.teacher.dtype).to(device)
    return LiveTeacher(network, config.teacher.feature_bits, bool(config.train.channels_last))


def loops(config: Config, folder: Path, device: torch.device) -> Iterator[tuple[PhaseLoop, Origin]]:
    """The loop of every phase as a run makes it, in train mode, and where its targets come from."""
    architecture = config.teacher.architecture if config.teacher else None
    objectives, students = build_objectives(config, architecture), build_students(config)[0].to(device)
    origins = tuple(Origin(online=objective.needs.targets) for objective in objectives)
    teacher = live_teacher(config, device) if architecture else None
    inputs, plan, log = Inputs((), (), None), Plan((), origins, origins, origins), RunLog(folder, 0, writes=False)
    setup = Setup(config, device, 0, 1, inputs, plan, objectives, teacher, folder, log, Halt(None, 1))
    if config.train.channels_last:
        students.to(memory_format=torch.channels_last)
    for number, origin in enumerate(origins):
        loop = PhaseLoop(setup, students, number, Position())
        students.train()
        yield loop, origin
