"""The loop: steps, epochs and phases of one run.

Letters: B pairs a step on this process, T loss terms. Nothing in a step waits for the device: numbers are gathered at log points.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from configs import Config, PhaseConfig, RunError
from kdlosses import LiveTeacher, Objective
from models import Tracker
from pairs.batch import Batch
from train import checkpoint, compiled, graphed
from train.checkpoint import Position
from train.data.feed import Feed
from train.evaluate import Validation, require_finite, summary
from train.halt import GO_ON, STOP, Halt
from train.hook import Watch
from train.inputs import Inputs
from train.log import RunLog
from train.plan import Origin, Plan
from train.reports.pictures import draw
from train.students import Step, Students, leaves_some_unused, parameter_groups


@dataclass
class Setup:
    """What stays the same over a run."""

    config: Config
    device: torch.device
    rank: int
    world: int
    inputs: Inputs
    plan: Plan
    objectives: list[Objective]
    teacher: LiveTeacher | None
    folder: Path
    log: RunLog
    halt: Halt
    watch: Watch | None = None
    compiles: bool = False
    checker: LiveTeacher | None = None
    """the teacher that has checked the caches of a run that begins, until its first validation"""


@dataclass
class Meter:
    """Terms of the steps since the last log point, kept on the device."""

    waited: float
    """seconds that the feed had been waited for when these steps began"""
    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)
    cached: int = 0
    online: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, terms: dict[str, Tensor], origin: Origin) -> None:
        """One step's named scalars, and where its targets came from."""
        self.names = tuple(terms)
        self.cached += bool(origin.cached)
        self.online += bool(origin.online)
        self.rows.append(torch.stack([term.detach() for term in terms.values()]))

    def state(self, waited: float) -> dict[str, Any]:
        """What a checkpoint keeps of it, the terms as means over all processes; waited: seconds that the feed has been waited for."""
        rows = torch.stack(self.rows) if self.rows else torch.empty(0)
        if torch.distributed.is_initialized() and self.rows:
            torch.distributed.all_reduce(rows)
            rows /= torch.distributed.get_world_size()
        spent = time.perf_counter() - self.began
        counts = {"cached": self.cached, "online": self.online, "spent": spent, "waited": waited - self.waited}
        return {"names": list(self.names), "rows": rows.cpu(), **counts}

    @staticmethod
    def restored(state: dict[str, Any], device: torch.device) -> Meter:
        """The meter of a checkpoint, for a feed that has not been waited for."""
        rows = list(state["rows"].to(device))
        began = time.perf_counter() - state["spent"]
        return Meter(-state["waited"], tuple(state["names"]), rows, state["cached"], state["online"], began)

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
            listed = ", ".join(f"{self.names[i]} = {float(values[row, i])}" for i in bad[row].nonzero().flatten())
            raise RunError(
                f"step {last_step - len(self.rows) + 1 + row}: expected finite losses, found {listed};"
                " lower train.lr or the weight of that loss and start a run of another train.name"
            )
        return dict(zip(self.names, values.mean(0).tolist(), strict=True))


class PhaseLoop:
    """One phase: an objective, frozen parts, an optimizer and a schedule of its own."""

    def __init__(self, setup: Setup, students: Students, number: int, position: Position) -> None:
        self.setup, self.students, self.number, self.position = setup, students, number, position
        self.over = False
        self.meter = Meter(0.0)
        self.config, self.device = setup.config, setup.device
        self.phase: PhaseConfig = self.config.phases_or_one()[number]
        students.freeze(self.phase.freeze)
        self.objective = setup.objectives[number].to(self.device)
        self.optimizer = Adam(parameter_groups(students, self.objective, self.config), fused=True)
        self.scheduler = StepLR(self.optimizer, self.config.train.lr_step, self.config.train.gamma)
        self.step = Step(students, self.objective, self.config.train.precision, self.device)
        self.model: nn.Module = self.step
        if setup.compiles:
            # validation goes on with the step itself: its last batch is shorter, and each other shape would be compiled anew
            self.model = compiled.CompiledStep(self.step, setup.config.train.compile is True, setup.log.say)
        if setup.world > 1:
            # with SyncBatchNorm (on GPUs) the buffers of all processes are equal as they are
            self.model = DistributedDataParallel(
                self.model,
                find_unused_parameters=leaves_some_unused(self.phase, self.objective),
                gradient_as_bucket_view=True,
                broadcast_buffers=self.device.type != "cuda",
            )
        self.graph: graphed.GraphedStep | None = None
        if graphed.wanted(self.config.train, self.device, setup.world):
            trained = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
            self.graph = graphed.GraphedStep(self.gradients, trained, setup.log.say)

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on inside this phase from a checkpoint."""
        checkpoint.restore_phase(state, self.objective, self.optimizer, self.scheduler)
        if self.position.epoch_step:
            self.meter = Meter.restored(state["meter"], self.device)

    def run(self, train: Feed, val: Feed) -> None:
        """The epochs of the phase that are still to do, with validations and checkpoints. Stopped: after a checkpoint."""
        if self.position.step == 0:
            self.validate(val)
        steps = (self.phase.epochs - self.position.phase_epoch) * self.config.train.batches - self.position.epoch_step
        # one stream over all epochs: what comes after a validation is read and decoded meanwhile
        batches = train.batches(self.position.step, self.position.step + steps)
        while not self.over:
            self.epoch(train, batches)
            self.finish_epoch(val)

    def epoch(self, feed: Feed, batches: Iterator[Batch]) -> None:
        """What is left of one epoch of training, on the next of a feed's batches."""
        config, position = self.config.train, self.position
        epochs = sum(phase.epochs for phase in self.config.phases_or_one())
        self.students.train()
        self.setup.log.start_epoch(position.epoch + 1, epochs, config.batches)
        if self.graph is not None and self.objective.mutual:
            self.graph.clear()  # its term depends on the epoch
        began = time.perf_counter()
        if not position.epoch_step:
            self.meter = Meter(feed.waited_s)
        for batch in islice(batches, config.batches - position.epoch_step):
            self.one_step(batch, self.meter)
            position.step += 1
            position.epoch_step += 1
            if position.step % config.log_every == 0 or position.epoch_step == config.batches:
                self.report(self.meter, feed, position.epoch_step)
                self.meter = Meter(feed.waited_s)
            now = time.perf_counter()
            position.seconds += now - began
            began = now
            self.end_step(feed.waited_s)

    def end_step(self, waited: float = 0.0) -> None:
        """Between two steps, where all is whole: a checkpoint and the end of the run where they are wanted. waited: see `Meter`."""
        wish, step = self.setup.halt.ask(), self.position.step
        if wish == GO_ON:
            return
        if step:
            self.keep(waited)
        if wish == STOP:
            raise self.setup.halt.stopped(f"the checkpoint after step {step:,} is kept" if step else "before the first step")

    def one_step(self, batch: Batch, meter: Meter) -> None:
        """Forward, backward, update; nothing here waits for the device."""
        if self.graph is not None:
            terms = self.graph(batch, batch.fresh)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            terms = self.gradients(batch)
        self.optimizer.step()
        meter.add(terms, self.origin(batch))

    def origin(self, batch: Batch) -> Origin:
        """Where the targets of a training batch come from."""
        return (self.setup.plan.fresh if batch.fresh else self.setup.plan.train)[self.number]

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Forward and backward: adds to the gradients of the parameters. Returns the terms, detached."""
        terms, _ = self.forward(self.model, batch, self.targets(batch, self.origin(batch)), self.position.phase_epoch)
        torch.stack(list(terms.values())).sum().backward()
        return {name: term.detach() for name, term in terms.items()}

    def targets(self, batch: Batch, origin: Origin) -> dict[str, Tensor]:
        """The cached targets of a batch and those that the teacher computes for it."""
        if not origin.online:
            return batch.targets
        assert self.setup.teacher is not None
        return batch.targets | self.setup.teacher.targets(batch.ref, batch.test, batch.boxes, origin.online, self.objective.projection)

    def forward(
        self, model: nn.Module, batch: Batch, targets: dict[str, Tensor], epoch: int
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """The weighted terms of a batch and each student's predictions after `epoch` epochs of the phase, see `Step`."""
        ref, test = self._laid_out(batch.ref), self._laid_out(batch.test)
        terms, predictions = model(ref, test, batch.boxes, targets, epoch)
        return terms, predictions

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.config.train.channels_last else images

    def report(self, meter: Meter, feed: Feed, done: int) -> None:
        """A log point: the one place in an epoch that waits for the device."""
        position, steps = self.position, len(meter.rows)
        terms = meter.means(position.step)
        spent = time.perf_counter() - meter.began
        rate, loss = steps * self.config.train.batch / spent, sum(terms.values())
        self.setup.log.record(
            "train",
            position.step,
            position.epoch + 1,
            phase=self.number + 1,
            loss=loss,
            terms=terms,
            lr={group["name"]: group["lr"] for group in self.optimizer.param_groups},
            pairs_per_s=rate,
            wait_share=(feed.waited_s - meter.waited) / spent,
            cached_share=meter.cached / steps,
            online_share=meter.online / steps,
        )
        self.setup.log.progress(done, loss, rate)

    def finish_epoch(self, val: Feed) -> None:
        """Validates where it is due, counts the epoch and writes a checkpoint where that is due."""
        position, config = self.position, self.config.train
        last, done = position.phase_epoch + 1 == self.phase.epochs, position.epoch + 1
        if last or done % config.val_every == 0:
            self.validate(val, 1)
        if self.setup.watch is not None and self.setup.rank == 0 and (last or done % config.track_every == 0):
            self.track(self.setup.watch, done)
        with warnings.catch_warnings():
            # a run that goes on right here has not stepped its optimizer yet, and torch would warn of that
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()
        position.epoch, position.phase_epoch, position.epoch_step = done, position.phase_epoch + 1, 0
        if last:
            # position already names the next phase, which a checkpoint of this moment goes on with
            self.over, position.phase, position.phase_epoch = True, self.number + 1, 0
        if last or done % config.checkpoint_every == 0:
            self.keep()

    def track(self, watch: Watch, epoch: int) -> None:
        """The student in video, as it is after an epoch."""
        log, step = self.setup.log, self.position.step
        self.students.eval()
        seen = watch(self.students.trackers[0], self.device)
        log.record("track", step, epoch, **seen.numbers)
        log.picture(seen.strips, epoch, step, "tracking")
        log.say(f"tracking after epoch {epoch}: " + ", ".join(f"{name.upper()} {100 * value:.1f}" for name, value in seen.numbers.items()))

    def keep(self, waited: float = 0.0) -> None:
        """A checkpoint of this moment; every process must call it."""
        meter = self.meter.state(waited)
        if self.setup.rank == 0:
            checkpoint.save(self.setup.folder, self.position, self.students, self.objective, self.optimizer, self.scheduler, meter)
        if self.setup.world > 1:
            torch.distributed.barrier()
        self.setup.halt.kept()

    @torch.no_grad()
    def validate(self, feed: Feed, ahead: int = 0) -> None:
        """The losses and the agreement with the truth on the validation pairs; pictures of the first of them.

        ahead: epochs that are trained and not yet counted in the position, so that a run that is stopped here validates again.
        """
        log, position, origin = self.setup.log, self.position, self.setup.plan.val[self.number]
        epoch = position.epoch + ahead
        self.students.eval()
        if self.setup.world > 1:
            # BatchNorm's statistics of one process: those that the checkpoint keeps
            for buffer in self.students.buffers():
                torch.distributed.broadcast(buffer, 0)
        validation = Validation(len(self.students.trackers), self.device)
        refining = [*self.students.trackers, *self._teacher_to_refine()]
        for number, batch in enumerate(feed.batches(0)):
            self.end_step()
            if not len(batch.pair):
                continue  # this process has no share of the last, short batch
            targets = self.targets(batch, origin)
            terms, predictions = self.forward(self.step, batch, targets, position.phase_epoch + ahead)
            validation.add(terms, predictions, batch.boxes, targets.get("iou/iou"))
            validation.refine(refining, batch, self.config.tracking.refinement, self.config.train.refine_pairs)
            if number == 0 and log.writes and self.config.train.pictures:
                log.picture(draw(batch, predictions[0], targets.get("iou/iou"), self.config.train.pictures), epoch, position.step)
        result = validation.result()
        log.record("val", position.step, epoch, **result)
        log.say(summary(epoch, result))
        require_finite(epoch, result)

    def _teacher_to_refine(self) -> list[Tracker]:
        """The teacher's network at the first validation, where it has checked the caches: its refinement gain stays what it is."""
        teacher, self.setup.checker = self.setup.checker, None
        return [teacher.network.tracker] if teacher is not None else []
