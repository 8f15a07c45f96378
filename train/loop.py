"""The loop: steps, epochs and phases of one run.

Letters: B pairs a step on this process, T loss terms. Nothing in a step waits for the device: numbers are gathered at log points.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from cache import Unit
from configs import Config, Phase, RequestError, RunError
from configs.files import write_atomic
from configs.machine import processors
from kdlosses import Objective, Pairs
from train import checkpoint
from train.checkpoint import Progress
from train.evaluate import Sample, Validation
from train.feed import Batch, Feed
from train.log import RunLog
from train.online import OnlineTeacher
from train.order import InOrder, Order
from train.pictures import draw
from train.plan import Plan
from train.plan import Sources as From
from train.record import PICTURES
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

    waited: float
    """seconds that the feed had been waited for when these steps began"""
    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)
    cached: int = 0
    online: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, terms: dict[str, Tensor], sources: From) -> None:
        """One step's named scalars, and where its targets came from."""
        self.names = tuple(terms)
        self.cached += bool(sources.cached)
        self.online += bool(sources.online)
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
        self.over = False
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
        checkpoint.restore_phase(state, self.objective, self.optimizer, self.scheduler)

    def run(self) -> None:
        """The epochs of the phase that are still to do, with validations and checkpoints."""
        train = self.feed("train", self.setup.plan.train[self.number].cached)
        val = self.feed("val", self._val_targets())
        try:
            if self.progress.step == 0:
                self.validate(val)
            while not self.over:
                self.epoch(train)
                self.scheduler.step()
                self.finish_epoch(val)
        finally:
            train.close()
            val.close()

    def feed(self, split: str, targets: tuple[str, ...]) -> Feed:
        """The feed of a split ("train", endless and shuffled; "val", in order) with these cached targets."""
        config, setup = self.config.train, self.setup
        caches = setup.sources.train if split == "train" else setup.sources.val
        counts = [cache.count for cache in caches]
        units: list[dict[str, Unit]] = [{} for _ in caches]
        if setup.sources.teacher is not None:
            for cache, named in zip(caches, units, strict=True):
                named |= {name: unit for name in targets if (unit := cache.target(setup.sources.teacher.name, name)) is not None}
        common: dict[str, Any] = {
            "batch": config.batch // setup.world,
            "pairs": self.config.pairs,
            "device": self.device,
            "kind": config.feed,
            "threads": feed_threads(config.feed_threads, setup.world),
            "rank": setup.rank,
            "world": setup.world,
        }
        if split == "val":
            return Feed(caches, InOrder(counts), units, total=min(sum(counts), config.val_batches * config.batch), **common)
        order = Order(counts, [cache.chunk for cache in caches], config.shuffle_window, config.seed)
        # every cache has two windows under way where one ends and the next begins
        keep = (2 * config.shuffle_window + 8) * len(caches)
        common |= {"augment": config.augment, "mix": config.mix, "fresh": config.fresh, "proposals": config.proposals}
        return Feed(caches, order, units, fresh_targets=setup.plan.fresh[self.number].cached, seed=config.seed, keep=keep, **common)

    def _val_targets(self) -> tuple[str, ...]:
        """What validation reads of the cache: its losses' targets, and the teacher's predictions to compare with."""
        cached = self.setup.plan.val[self.number].cached
        teacher = self.setup.sources.teacher
        units = [cache.target(teacher.name, "iou") for cache in self.setup.sources.val] if teacher is not None else [None]
        known = all(unit is not None and unit.complete for unit in units)
        return cached if "iou" in cached or not known else (*cached, "iou")

    def epoch(self, feed: Feed) -> None:
        """One epoch of training."""
        config, progress = self.config.train, self.progress
        epochs = sum(phase.epochs for phase in self.config.phases_or_one())
        self.students.train()
        self.setup.log.start_epoch(progress.epoch + 1, epochs, config.batches)
        meter, began = Meter(feed.waited_s), time.perf_counter()
        for done, batch in enumerate(feed.batches(progress.step, progress.step + config.batches), 1):
            self.one_step(batch, meter)
            progress.step += 1
            if progress.step % config.log_every == 0 or done == config.batches:
                self.report(meter, feed, done)
                meter = Meter(feed.waited_s)
        progress.seconds += time.perf_counter() - began

    def one_step(self, batch: Batch, meter: Meter) -> None:
        """Forward, backward, update; nothing here waits for the device."""
        sources: From = (self.setup.plan.fresh if batch.fresh else self.setup.plan.train)[self.number]
        targets = self.targets(batch, sources)
        self.optimizer.zero_grad(set_to_none=True)
        terms, _ = self.model(self._laid_out(batch.ref), self._laid_out(batch.test), batch.pairs, targets, self.progress.phase_epoch)
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()
        meter.add(terms, sources)

    def targets(self, batch: Batch, sources: From) -> dict[str, Tensor]:
        """The cached targets of a batch and those that the teacher computes for it."""
        if not sources.online:
            return batch.targets
        assert self.setup.teacher is not None
        return batch.targets | self.setup.teacher.targets(batch.ref, batch.test, batch.pairs, sources.online, self.objective)

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.config.train.channels_last else images

    def report(self, meter: Meter, feed: Feed, done: int) -> None:
        """A log point: the one place in an epoch that waits for the device."""
        progress, steps = self.progress, len(meter.rows)
        terms = meter.means(progress.step)
        spent = time.perf_counter() - meter.began
        rate, loss = steps * self.config.train.batch / spent, sum(terms.values())
        self.setup.log.record(
            "train",
            progress.step,
            progress.epoch + 1,
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
        """Counts the epoch, then validates and writes a checkpoint where they are due."""
        progress, config = self.progress, self.config.train
        progress.epoch += 1
        progress.phase_epoch += 1
        last = progress.phase_epoch == self.phase.epochs
        if last or progress.epoch % config.val_every == 0:
            self.validate(val)
        if last:
            # progress already names the next phase, which a checkpoint of this moment goes on with
            self.over, progress.phase, progress.phase_epoch = True, self.number + 1, 0
        if last or progress.epoch % config.checkpoint_every == 0:
            if self.setup.rank == 0:
                path = self.setup.folder / checkpoint.FILE
                checkpoint.save(path, progress, self.students, self.objective, self.optimizer, self.scheduler)
            if self.setup.world > 1:
                torch.distributed.barrier()

    @torch.no_grad()
    def validate(self, feed: Feed) -> None:
        """The losses and the agreement with the truth on the validation pairs; pictures of the first of them."""
        sources = self.setup.plan.val[self.number]
        self.students.eval()
        if self.setup.world > 1:
            # BatchNorm's statistics of one process: those that the checkpoint keeps
            for buffer in self.students.buffers():
                torch.distributed.broadcast(buffer, 0)
        found = Validation(len(self.students.trackers), self.device)
        sample: Sample | None = None
        for batch in feed.batches(0, feed.steps or 0):
            if not len(batch.pair):
                continue  # this process has no share of the last, short batch
            targets = self.targets(batch, sources)
            images = self._laid_out(batch.ref), self._laid_out(batch.test)
            terms, predictions = self.step(*images, batch.pairs, targets, self.progress.phase_epoch)
            of_teacher = targets.get("iou/iou")
            found.add(terms, predictions, batch.pairs, of_teacher)
            if sample is None:
                sample = self.sample(batch, predictions[0], of_teacher)
        result = found.result()
        log, progress = self.setup.log, self.progress
        log.record("val", progress.step, progress.epoch, **result)
        log.say(summary(progress.epoch, result))
        if sample is not None and log.writes and len(sample.ref):
            image = draw(sample)
            log.picture("pairs", image, progress.step)
            save_picture(self.setup.folder / PICTURES / f"epoch{progress.epoch:04d}.png", image)

    def sample(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Sample:
        """The first train.pictures pairs of a batch."""
        few = slice(0, self.config.train.pictures)
        pairs = Pairs(batch.pairs.ref_box[few], batch.pairs.test_box[few], batch.pairs.proposals[few], batch.pairs.crop_size)
        return Sample(batch.ref[few], batch.test[few], pairs, student[few], None if teacher is None else teacher[few])


def summary(epoch: int, result: dict[str, Any]) -> str:
    """A validation in one line."""
    words = [f"validation after epoch {epoch}: loss {result['loss']:.4g}", f"IoU error {result['iou_error']:.4f}"]
    words.append(f"correlation {result['correlation']:.3f}")
    if "teacher_iou_error" in result:
        words.append(f"(teacher: {result['teacher_iou_error']:.4f}, {result['teacher_correlation']:.3f})")
    return ", ".join(words[:3]) + "".join(f" {word}" for word in words[3:])


def save_picture(path: Path, image: np.ndarray) -> None:
    """Writes an (H, W, 3) RGB picture as PNG, in one step."""
    good, encoded = cv2.imencode(".png", image[..., ::-1])
    assert good
    write_atomic(path, encoded.tobytes())


def feed_threads(wanted: int | None, world: int) -> int:
    """Decoder threads of one process: as configured, else its share of the processors it may use."""
    if wanted is not None:
        return wanted
    return max(1, processors() // world)
