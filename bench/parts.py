"""Parts of `make bench`: what the losses cost beside the student, and what adding a target to a cache costs beside the teacher."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import configs
import models
import precompute.__main__
from cache import Cache
from kdlosses import LiveTeacher, Objective, build_objectives
from models import Outputs
from pairs.batch import Batch, Boxes

SETTINGS = ("gt", "ts_ah", "ts_ah_fid", "atom_cfkd", "atom_tskd", "atom_tsskd", "atom_compression")


def losses(timed: Callable[[Callable[[], object]], float], ready: Batch, options: argparse.Namespace) -> None:
    """Loss computation alone, forward and backward to the student's given features, as a ratio to the student's forward + backward."""
    ref, test, boxes = ready.ref, ready.test, ready.boxes
    torch.manual_seed(0)
    student, tracker = models.build("atom_mobilenetsmall").to(ref.device), models.build("atom_resnet18").to(ref.device)
    teacher = LiveTeacher(models.TeacherNetwork(tracker))
    outputs = student(ref, test, boxes.ref_box, boxes.proposals, models.LAYERS)
    given = Outputs(
        outputs.prediction.detach().requires_grad_(),
        *({layer: value.detach().requires_grad_() for layer, value in maps.items()} for maps in (outputs.ref, outputs.test)),
    )

    def alone() -> None:
        student.zero_grad(set_to_none=True)
        student(ref, test, boxes.ref_box, boxes.proposals).prediction.square().mean().backward()

    kinds: dict[str, Callable[[], object]] = {"student": alone}
    for setting in SETTINGS:
        config = configs.load(setting, [f"pairs.ref.size={options.size}", f"pairs.test.size={options.size}"])
        objective = build_objectives(config, "atom_resnet18" if config.teacher else None)[0].to(ref.device)
        targets = teacher.targets(ref, test, boxes, objective.needs.targets, objective.projection)
        kinds[setting] = _backward(objective, given, targets, boxes)
    for work in kinds.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, work in kinds.items():
            seconds[name].append(timed(work))
    print("\n| losses alone, forward + backward | ms a pair | share of the student's (least to most) |\n|---|---|---|")
    for name, times in seconds.items():
        shares = sorted(time / base for time, base in zip(times, seconds["student"], strict=True))
        spread = f"{statistics.median(shares):.3f} ({shares[0]:.3f} to {shares[-1]:.3f})"
        print(f"| {name} | {1e3 * statistics.median(times) / len(boxes):.2f} | {spread} |")


def _backward(objective: Objective, given: Outputs, targets: dict[str, Tensor], boxes: Boxes) -> Callable[[], object]:
    wanted = [given.prediction, *(maps[layer] for layer in objective.needs.student_layers for maps in (given.ref, given.test))]

    # two students that say the same cost as much as any two
    students = given if not objective.mutual else (given, given)

    def work() -> object:
        total = torch.stack(list(objective(students, targets, boxes).values())).sum()
        return torch.autograd.grad(total, wanted, allow_unused=True)

    return work


def growth(
    timed: Callable[[Callable[[], object]], float], forward: Callable[[], object], weights: str, options: argparse.Namespace
) -> None:
    """Adding a target to a finished cache, as a ratio to the teacher's forward passes over the same pairs (timed before and after)."""
    arguments = ["--dataset", "demo", "--teacher", weights, "--split", "train", "--pairs", str(options.pairs)]
    rows = []
    for setting, target in (("atom_tskd", "response"), ("atom_compression", "projected"), ("atom_compression", "features")):
        alone = [timed(forward) / 8 for _ in range(3)]
        own = ["--setting", setting, "--targets", target, f"pairs.ref.size={options.size}", f"pairs.test.size={options.size}"]
        precompute.__main__.main(["cache", *arguments, *own, "teacher.batch=8"])
        alone += [timed(forward) / 8 for _ in range(3)]
        record = Cache.open(next(Path(os.environ["CACHE_DIR"]).glob("demo-train-*"))).history()[-1]
        base, whole, busy = statistics.median(alone), record["seconds"] / options.pairs, record["teacher_seconds"] / options.pairs
        rows.append(f"| {target} | {1e3 * whole:,.1f} | {whole / base:.2f} | {busy / base:.2f} |")
    head = "target added to a finished cache | ms a pair | times the teacher's forward pass | teacher and targets alone"
    print(f"\n| {head} |\n|---|---|---|---|")
    print("\n".join(rows))
