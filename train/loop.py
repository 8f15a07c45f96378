"""The loop: steps, epochs and phases of one run.

Letters: B pairs a step on this process, T loss terms. Nothing in a step waits for the device: numbers are gathered at log points.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from configs import Config, Phase, RequestError, RunError
from configs.files import atomic_writer
from kdlosses import Objective
from train import checkpoint
from train.checkpoint import Progress
from train.evaluate import Sample, Validation
from train.feed import Batch, Feed
from train.log import RunLog
from train.online import OnlineTeacher
from train.pictures import draw
from train.plan import Plan
from train.plan import Sources as From
from train.sources import Sources
from train.students import Step, Students, leaves_some_unused, parameter_groups


@dataclass
class Setup:
    """What stays the same over a run."""

    config: Config
    device: torch.device
    rank: int
    world: int
    sources: Sources
    plan: Plan
    objectives: list[Objective]
    teacher: OnlineTeacher | None
    folder: Path
    log: RunLog


@dataclass
class Meter:
    """Terms of the steps since the last log point, kept on the device."""

    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)
    cached: int = 0
    online: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(self, terms: dict[str, Tensor]) -> None:
        """One step's named scalars."""
        self.names = tuple(terms)
        self.rows.append(torch.stack([term.detach() for term in terms.values()]))

    def means(self, last_step: int) -> dict[str, float]:
        """Mean of each term over the steps, of all processes. RunError naming the first step with a term that is not finite."""
        values = torch.stack(self.rows)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(values)
            values /= torch.distributed.get_world_size()
        values = values.double().cpu()
        bad = ~torch.isfinite(values)
        if bad.any():
            row = int(bad.any(1).nonzero()[0])
            found = ", ".join(f"{self.names[i]} = {float(values[row, i])}" for i in bad[row].nonzero().flatten())
            raise RunError(
                f"step {last_step - len(self.rows) + 1 + row}: expected finite losses, found {found};"
                " lower train.lr or the weight of that loss and start a run of another train.name"
            )
        return dict(zip(self.names, values.mean(0).tolist(), strict=True))


class PhaseLoop:
    """One phase: an objective, frozen parts, an optimizer and a schedule of its own."""

    def __init__(self, setup: Setup, students: Students, number: int, progress: Progress) -> None:
        self.setup, self.students, self.number, self.progress = setup, students, number, progress
        self.config, self.device = setup.config, setup.device
        self.phase: Phase = self.config.phases_or_one()[number]
        students.freeze(self.phase.freeze)
        self.objective = setup.objectives[number].to(self.device)
        groups = parameter_groups(students, self.objective, self.config)
        if not groups:
            raise RequestError("freeze: expected parameters left to train, found backbone and head frozen; free one of them")
        self.optimizer = Adam(groups, fused=self.device.type == "cuda")
        self.scheduler = StepLR(self.optimizer, self.config.train.lr_step, self.config.train.gamma)
        self.step = Step(students, self.objective, self.config.train.precision, self.device)
        self.model: nn.Module = self.step
        if setup.world > 1:
            unused = leaves_some_unused(self.phase, self.objective)
            self.model = DistributedDataParallel(self.step, find_unused_parameters=unused, gradient_as_bucket_view=True)

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on inside this phase from a checkpoint."""
        checkpoint.restore(state, self.students, self.objective, self.optimizer, self.scheduler)

    def run(self) -> None:
        """The epochs of the phase that are still to do, with validations and checkpoints."""
        train = self.feed("train", self.setup.plan.train[self.number].cached)
        val = self.feed("val", self._val_targets())
        try:
            if self.progress.step == 0:
                self.validate(val)
            while self.progress.phase_epoch < self.phase.epochs:
                self.epoch(train)
                self.scheduler.step()
                self.finish_epoch(val)
        finally:
            train.close()
            val.close()

    def feed(self, split: str, targets: tuple[str, ...]) -> Feed:
        """The feed of a split with the cached targets of this phase."""
        raise RuntimeError  # replaced once the feed's form is known

    def _val_targets(self) -> tuple[str, ...]:
        """What validation reads of the cache: its losses' targets, and the teacher's predictions to compare with."""
        cached = self.setup.plan.val[self.number].cached
        teacher = self.setup.sources.teacher
        units = [cache.target(teacher.name, "iou") for cache in self.setup.sources.val] if teacher is not None else [None]
        known = all(unit is not None and unit.complete for unit in units)
        return cached if "iou" in cached or not known else (*cached, "iou")

    def epoch(self, feed: Feed) -> None:
        """One epoch of training."""
        config, log = self.config.train, self.setup.log
        epochs = sum(phase.epochs for phase in self.config.phases_or_one())
        self.students.train()
        log.start_epoch(self.progress.epoch + 1, epochs, config.batches)
        meter, began = Meter(), time.perf_counter()
        for done, batch in enumerate(self._timed(feed, meter), 1):
            self.one_step(batch, meter)
            self.progress.step += 1
            if self.progress.step % config.log_every == 0 or done == config.batches:
                meter = self.report(meter, done)
        self.progress.seconds += time.perf_counter() - began

    def _timed(self, feed: Feed, meter: Meter) -> Iterator[Batch]:
        raise RuntimeError

    def one_step(self, batch: Batch, meter: Meter) -> None:
        """Forward, backward, update; nothing here waits for the device."""
        targets, online = self.targets(batch)
        meter.online += online
        meter.cached += bool(batch.targets) and not online
        self.optimizer.zero_grad(set_to_none=True)
        terms, _ = self.model(batch.ref, batch.test, batch.pairs, targets, self.progress.phase_epoch)
        sum(terms.values()).backward()
        self.optimizer.step()
        meter.add(terms)

    def targets(self, batch: Batch) -> tuple[dict[str, Tensor], bool]:
        """All targets of a training batch, and whether the teacher ran for it."""
        plan = self.setup.plan
        sources: From = (plan.mixed if batch.fresh else plan.train)[self.number]
        return self._with_online(batch, sources), bool(sources.online)

    def _with_online(self, batch: Batch, sources: From) -> dict[str, Tensor]:
        if not sources.online:
            return batch.targets
        assert self.setup.teacher is not None
        return batch.targets | self.setup.teacher.targets(batch.ref, batch.test, batch.pairs, sources.online, self.objective)
