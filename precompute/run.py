"""Caches from a configuration: all of them checked before the first is created, then filled and reported one by one."""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cache import Cache, Unit, require
from cache.address import Location, location
from cache.claims import Claims, claimed
from configs import Config, RunError
from configs.arrays import TargetSpec
from configs.machine import require_place
from configs.progress import ProgressBar
from kdlosses import LiveTeacher, build_objectives, needed_targets, sizes_of, target_spec
from models import TeacherSpec, choose_teacher, pick_device
from pairs.decode import decoder_name
from precompute import cost, memory
from precompute.crop_writer import CropWriter
from precompute.datasets import Dataset
from precompute.made import decoder_made, made_with, other_rounding
from precompute.request import PairSet, Request, create
from precompute.target_writer import Measured, Work, fill

# seconds between two looks at what others are making
POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """One cache to fill, checked."""

    pair_set: PairSet
    needs: list[cost.Need]
    """of the pair set, then of every target"""


def make_caches(request: Request, engine: Engine | None = None) -> None:
    """Fills the caches of all data sets and splits; prints `cache: PATH` for each that was filled, last, on rank 0.

    engine: what makes the parts; None: this process.

    Any number of processes may do so at once: they share the parts (cache/claims.py), and each returns when every part is there, or
    every one of its `share`. Whatever can be refused is refused before the first cache is created. What was filled is printed even where
    a later one fails.
    """
    sets = request.pair_sets
    maker = CacheMaker(request, engine)
    jobs = [maker.job(one) for one in sets]
    cost.require_room(location(request.config.cache_dir), [need for job in jobs for need in job.needs])
    if engine is None:
        maker.load(sets[0].spec.chunk)
    filled: list[Location] = []
    try:
        for job in jobs:
            maker.fill(job)
            filled.append(job.pair_set.path)
    finally:
        if request.speaks and filled:
            print("\n".join(f"cache: {path}" for path in filled), flush=True)


class CacheMaker:
    """What fills the caches of one command: the teacher and the targets are the same for all of them."""

    def __init__(self, request: Request, engine: Engine | None = None) -> None:
        """RequestError for a device, targets or a teacher that cannot be had."""
        self.config, self.share, self.speaks = request.config, request.share, request.speaks
        self.threads, self.engine = request.cutters, engine
        self.device = pick_device("cpu" if engine else request.device, "--device")
        wanted, section = wanted_targets(request), self.config.teacher
        self.teacher = choose_teacher(section) if wanted and section is not None else None
        self.specs: list[TargetSpec] = []
        self.live: LiveTeacher | None = None
        if self.device.type == "cuda":
            # what allocates without naming a device goes there too
            torch.cuda.set_device(self.device)
        if self.teacher is not None:
            decoder_name(self.config.train.feed, self.device)
            self.specs = [target_spec(target, sizes_of(self.config, self.teacher)) for target in wanted]
            if self.teacher.note and self.speaks:
                print(self.teacher.note, file=sys.stderr)

    def load(self, chunk: int) -> None:
        """Makes the teacher ready for work here. RequestError: in chunks of so many pairs it holds more than it may, or no weights fit."""
        if self.teacher is not None:
            needed = memory.work_bytes(self.teacher.architecture, self.config.pairs, self.teacher.batch, self.specs, chunk)
            memory.require_memory(needed, memory.limit(self.config.memory_gb), self.teacher.batch)
            self.live = LiveTeacher(self.teacher.load(self.device), self.teacher.feature_bits)

    def job(self, pair_set: PairSet) -> Job:
        """What the cache of a pair set lacks; creates nothing. RequestError: another teacher's targets in the cache."""
        needs = [pair_set.crops]
        if self.teacher is not None:
            if (cache := pair_set.cache()) is not None:
                _refuse_others(cache, self.teacher, self.specs)
            needs += cost.targets_needed(cache, pair_set.spec.count, self.teacher.name, self.specs)
        if isinstance(pair_set.path, Path) and any(need.pairs for need in needs):
            require_place(pair_set.path, "the cache")
        return Job(pair_set, needs)

    def fill(self, job: Job) -> None:
        """Creates the cache where there is none, and makes what it lacks together with whoever else is at it."""
        config, teacher = self.config, self.teacher
        # a target of damaged crops would be wrong and whole
        dataset, path = job.pair_set.dataset, job.pair_set.path
        cache = create(path, job.pair_set.spec).check_before_use()
        targets = {spec.name: _add(cache, teacher, spec) for spec in self.specs} if teacher else {}
        lacking = functools.partial(_lacking, (cache.pairs, *targets.values()), self.share or (0, 1))
        missing = lacking()
        if self.speaks:
            done = cache.parts - len(missing)
            print(f"{cache.path}: {cache.count:,} pairs of {len(dataset.sequences):,} sequences, {done} of {cache.parts} parts done")
        if missing:
            print(cost.estimate(path.parent, job.needs), flush=True)
        work = self.work(cache)
        if self.speaks and self.engine is None:
            for note in other_rounding(work.targets, {**work.made, "decoder": decoder_made(decoder_name(config.train.feed, self.device))}):
                print(note)
        pairs = sum(stop - start for start, stop in map(cache.bounds, missing))
        with Claims(cache) as claims, ProgressBar(f"cache {cache.path.name}", pairs, "pair", shown=self.speaks and pairs > 0) as progress:
            measured = (self.engine or here)(self, job, cache, lacking, claims, progress)
            claims.clear()
        if measured.pairs:
            report(config, cache, measured, teacher, list(targets))
        # a validation cache is no teacher's work that training is spared
        if dataset.split == "train" and (line := cost.break_even(config, measured)):
            print(line)

    def work(self, cache: Cache) -> Work:
        """What is to be done to an open cache whose targets have been added; no part yet."""
        name, batch = (self.teacher.name, self.teacher.batch) if self.teacher is not None else ("", 1)
        targets = {spec.name: unit for spec in self.specs if (unit := cache.target(name, spec.name)) is not None}
        made = made_with(self.device, batch)
        return Work(cache, self.config.pairs, (), targets, batch, self.device, self.config.train.feed, self.threads, made)

    def make(self, work: Work, dataset: Dataset, measured: Measured, progress: ProgressBar) -> None:
        """Makes the parts of the work in this process."""
        with closing(CropWriter(dataset, work.pairs, self.threads)) as writer:
            fill(work, writer, self.live, measured, progress)


Engine = Callable[[CacheMaker, Job, Cache, Callable[[], list[int]], Claims, ProgressBar], Measured]
"""What makes the parts of a cache until none is lacking; `here` is one."""


def here(maker: CacheMaker, job: Job, cache: Cache, lacking: Callable[[], list[int]], claims: Claims, progress: ProgressBar) -> Measured:
    """Claims and makes parts in this process until none is lacking; waits for those that others are making."""
    measured, waits, work = Measured(), False, maker.work(cache)
    while missing := lacking():
        parts = claimed(claims, (cache.pairs, *work.targets.values()), lacking)
        if (first := next(parts, None)) is not None:
            own = replace(work, parts=itertools.chain([first], parts), done=claims.give_back)
            maker.make(own, job.pair_set.dataset, measured, progress)
        else:
            if not waits and maker.speaks:
                progress.say(f"waits for {len(missing)} parts that others are making (first: part {missing[0]})")
            waits = True
            time.sleep(POLL_S)
    return measured


def _lacking(units: Sequence[Unit], share: tuple[int, int]) -> list[int]:
    """The parts of a share (part k belongs to k mod n) that one of the units lacks."""
    return [part for part in sorted({part for unit in units for part in unit.missing()}) if part % share[1] == share[0]]


def wanted_targets(request: Request) -> tuple[str, ...]:
    """The targets to be cached: those that are named, or those that the setting's losses need."""
    if request.named_targets is not None or request.config.teacher is None:
        return request.named_targets or ()
    return needed_targets(build_objectives(request.config, request.config.teacher.architecture))


def _add(cache: Cache, teacher: TeacherSpec, spec: TargetSpec) -> Unit:
    return cache.add_target(teacher.name, teacher.identity(), spec, remedy=_drop(cache, teacher, spec))


def _refuse_others(cache: Cache, teacher: TeacherSpec, specs: Sequence[TargetSpec]) -> None:
    """RequestError where the cache holds, under the names of this teacher and its targets, those of another."""
    for spec in specs:
        remedy, held = _drop(cache, teacher, spec), None
        with suppress(RunError):  # a damaged description is written again
            held = cache.teachers().get(teacher.name)
        if held is not None:
            require(held, teacher.identity(), what=f"{cache.path}: teacher {teacher.name}", remedy=remedy)
        unit = None
        with suppress(RunError):
            unit = cache.target(teacher.name, spec.name)
        if unit is not None:
            require(unit.identity, spec.identity, what=f"{cache.path}: {unit.path}", remedy=remedy)


def _drop(cache: Cache, teacher: TeacherSpec, spec: TargetSpec) -> str:
    """What to do about targets of another teacher."""
    return (
        "give this teacher a name of its own (teacher.name=...) or drop the old one:"
        f" python -m cache gc {cache.path} --teacher {teacher.name} (of it only this target: --target {teacher.name}/{spec.name})"
    )


def report(config: Config, cache: Cache, measured: Measured, teacher: TeacherSpec | None, targets: Sequence[str]) -> None:
    """Says what was measured and keeps it in the cache's history."""
    redrawn = sum(measured.faults.values())
    if redrawn:
        most = max(measured.faults, key=lambda fault: measured.faults[fault])
        print(
            f"warning: {redrawn} of {measured.pairs:,} pairs drawn anew because a frame could not be used"
            f" ({len(measured.faults)} different faults), most often: {most}",
            file=sys.stderr,
        )
    print(f"{measured.pairs:,} pairs in {measured.seconds:,.1f} s, {measured.pairs / measured.seconds:,.1f} a second")
    record: dict[str, Any] = {
        "setting": config.setting,
        "targets": list(targets),
        "teacher": teacher.name if teacher else None,
        "teacher_weights": str(teacher.weights.resolve()) if teacher and teacher.weights else None,
        "decoder": measured.decoder,
        "pairs": measured.pairs,
        "seconds": round(measured.seconds, 3),
        "teacher_pairs": measured.teacher_pairs,
        "teacher_seconds": round(measured.teacher_seconds, 3),
        "waited_seconds": round(measured.waited_seconds, 3),
        "redrawn": redrawn,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    cache.add_history(record | _rounding(measured, teacher))


def _rounding(measured: Measured, teacher: TeacherSpec | None) -> dict[str, Any]:
    """What teacher.feature_bits changed: said, and for the history."""
    errors = measured.rounding_errors()
    if not errors or teacher is None:
        return {}
    print(
        f"features rounded to {teacher.feature_bits} mantissa bits: relative error"
        f" {', '.join(f'{error:.2g} ({key})' for key, error in errors.items())} over {measured.teacher_pairs:,} pairs"
    )
    return {"feature_bits": teacher.feature_bits, "rounding_errors": {key: float(f"{error:.4g}") for key, error in errors.items()}}
