"""Caches from a configuration: all of them checked before the first is created, then filled and reported one by one."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from cache import Cache, PairSetSpec, Unit, require
from cache.address import Location, location
from cache.backends import exists
from cache.claims import Claims, claimed
from cache.locate import has_pairs
from configs import Config, RequestError, RunError, dataset_entry
from configs.arrays import TargetSpec
from configs.catalog import members
from configs.files import fingerprint
from configs.machine import processors
from configs.progress import ProgressBar
from kdlosses import TARGETS, LiveTeacher, build_objectives, needed_targets, sizes_of, target_spec
from models import TeacherSpec, choose_teacher, pick_device
from pairs.decode import decoder_name
from pairs.identity import pair_identity
from pairs.replay import crop_bytes_bound, pair_arrays
from precompute import cost, memory
from precompute.crop_writer import CropWriter
from precompute.datasets import Dataset, open_entry
from precompute.frames import require_same
from precompute.made import decoder_made, made_with, other_rounding
from precompute.target_writer import Measured, Work, fill

# pairs of a shard, and of an inner chunk: the units of writing and of reading
PART, CHUNK = 1024, 64
# seconds between two looks at what others are making
POLL_S = 0.5


@dataclass(frozen=True)
class Request:
    """What one command asks for."""

    config: Config
    datasets: str
    """names of the catalog, separated by spaces"""
    splits: tuple[str, ...] = ("train", "val")
    targets: str | None = None
    """all, none, or names; None: those that the setting's losses need"""
    share: tuple[int, int] | None = None
    """(i, n): part k belongs to k mod n = i, whatever is missing; None: whatever no other worker has claimed"""
    device: str = "auto"
    threads: int | None = None

    @property
    def speaks(self) -> bool:
        """Whether this process is the one of several (torchrun) that tells the user."""
        return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Job:
    """One cache to fill, checked."""

    dataset: Dataset
    path: Location
    spec: PairSetSpec
    needs: list[cost.Need]
    """of the pair set, then of every target"""


def make_caches(request: Request) -> None:
    """Fills the caches of all data sets and splits; prints `cache: PATH` for each that was filled, last, on rank 0.

    Any number of processes may do so at once: they share the parts (cache/claims.py), and each returns when every part is there, or
    every one of its `share`. Whatever can be refused is refused before the first cache is created. What was filled is printed even where
    a later one fails.
    """
    named = {split: members(request.datasets, split) for split in request.splits}
    everything = dict.fromkeys(name for names in named.values() for name in names)
    maker = CacheMaker(request)
    jobs = [maker.job(name, split) for name in everything for split, names in named.items() if name in names]
    cost.require_room(location(request.config.cache_dir), [need for job in jobs for need in job.needs])
    maker.require_memory()
    filled: list[Location] = []
    try:
        for job in jobs:
            maker.fill(job)
            filled.append(job.path)
    finally:
        if request.speaks and filled:
            print("\n".join(f"cache: {path}" for path in filled), flush=True)


class CacheMaker:
    """What fills the caches of one command: the teacher and the targets are the same for all of them."""

    def __init__(self, request: Request) -> None:
        """RequestError for a device, targets or a teacher that cannot be had."""
        self.config, self.share, self.speaks = request.config, request.share, request.speaks
        self.threads = request.threads or processors()
        self.device = pick_device(request.device, "--device")
        wanted, section = wanted_targets(self.config, request.targets), self.config.teacher
        self.teacher = choose_teacher(section) if wanted and section is not None else None
        self.specs: list[TargetSpec] = []
        self.live: LiveTeacher | None = None
        if self.device.type == "cuda":
            # what allocates without naming a device goes there too
            torch.cuda.set_device(self.device)
        if self.teacher is not None:
            decoder_name(self.config.train.feed, self.device)
            self.specs = [target_spec(target, sizes_of(self.config, self.teacher)) for target in wanted]
            self.live = LiveTeacher(self.teacher.load(self.device), self.teacher.feature_bits)
            if self.teacher.note and self.speaks:
                print(self.teacher.note, file=sys.stderr)

    def require_memory(self) -> None:
        """RequestError: the teacher's work holds more than it may."""
        if self.teacher is not None:
            needed = memory.work_bytes(self.teacher.architecture, self.config.pairs, self.teacher.batch, self.specs, CHUNK)
            memory.require_memory(needed, memory.limit(self.config.memory_gb), self.teacher.batch)

    def job(self, name: str, split: str) -> Job:
        """The cache of a data set and split; creates nothing. RequestError: unusable data, or another teacher's targets in the cache."""
        dataset = open_usable(self.config, name, split)
        path, spec = pair_set(self.config, dataset)
        cache = Cache.create(path, spec, remedy=_remedy(path)) if exists(path) else None
        if cache is not None and self.config.recut_pairs and self.speaks and has_pairs(cache):
            print(require_same(cache, dataset, self.config.recut_pairs), flush=True)
        needs = [cost.crops_needed(cache, spec, CropWriter(dataset, self.config.pairs, self.threads))]
        if self.teacher is not None:
            if cache is not None:
                _refuse_others(cache, self.teacher, self.specs)
            needs += cost.targets_needed(cache, spec.count, self.teacher.name, self.specs)
        return Job(dataset, path, spec, needs)

    def fill(self, job: Job) -> None:
        """Creates the cache where there is none, and makes what it lacks together with whoever else is at it."""
        config, teacher = self.config, self.teacher
        # a target of damaged crops would be wrong and whole
        cache = Cache.create(job.path, job.spec, remedy=_remedy(job.path)).check_before_use()
        targets = {spec.name: _add(cache, teacher, spec) for spec in self.specs} if teacher else {}
        lacking = functools.partial(_lacking, (cache.pairs, *targets.values()), self.share or (0, 1))
        missing = lacking()
        if self.speaks:
            done = cache.parts - len(missing)
            print(f"{cache.path}: {cache.count:,} pairs of {len(job.dataset.sequences):,} sequences, {done} of {cache.parts} parts done")
        if missing:
            print(cost.estimate(job.path.parent, job.needs), flush=True)
        work = self.work(cache)
        if self.speaks:
            for note in other_rounding(work.targets, {**work.made, "decoder": decoder_made(decoder_name(config.train.feed, self.device))}):
                print(note)
        pairs = sum(stop - start for start, stop in map(cache.bounds, missing))
        with Claims(cache) as claims, ProgressBar(f"cache {cache.path.name}", pairs, "pair", shown=self.speaks and pairs > 0) as progress:
            measured = here(self, job, cache, lacking, claims, progress)
            claims.clear()
        if measured.pairs:
            report(config, cache, measured, teacher, list(targets))
        # a validation cache is no teacher's work that training is spared
        if job.dataset.split == "train" and (line := cost.break_even(config, measured)):
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


def here(maker: CacheMaker, job: Job, cache: Cache, lacking: Callable[[], list[int]], claims: Claims, progress: ProgressBar) -> Measured:
    """Claims and makes parts in this process until none is lacking; waits for those that others are making."""
    measured, waits, work = Measured(), False, maker.work(cache)
    while missing := lacking():
        parts = claimed(claims, (cache.pairs, *work.targets.values()), lacking)
        if (first := next(parts, None)) is not None:
            own = replace(work, parts=itertools.chain([first], parts), done=claims.give_back)
            maker.make(own, job.dataset, measured, progress)
        else:
            if not waits and maker.speaks:
                progress.say(f"waits for {len(missing)} parts that others are making (first: part {missing[0]})")
            waits = True
            time.sleep(POLL_S)
    return measured


def _lacking(units: Sequence[Unit], share: tuple[int, int]) -> list[int]:
    """The parts of a share (part k belongs to k mod n) that one of the units lacks."""
    return [part for part in sorted({part for unit in units for part in unit.missing()}) if part % share[1] == share[0]]


def open_usable(config: Config, name: str, split: str) -> Dataset:
    """The data set, with sequences that pairs can be drawn from. RequestError: none, or still images for pairs.mode=causal."""
    dataset = open_entry(name, dataset_entry(name), split)
    if dataset.still and config.pairs.mode == "causal":
        raise RequestError(
            f"dataset {name}: expected video for pairs.mode=causal (test strictly after ref), found still images; use pairs.mode=interval"
        )
    dataset.usable(config.pairs)
    return dataset


def pair_set(config: Config, dataset: Dataset) -> tuple[Location, PairSetSpec]:
    """Where the cache of a pair set lies, and what it is."""
    identity = pair_identity(config.pairs, dataset.name, dataset.split) | {"content_sha256": dataset.content_hash}
    path = location(config.cache_dir) / f"{dataset.name}-{dataset.split}-{fingerprint(identity)[:10]}"
    arrays, bound = pair_arrays(config.pairs), crop_bytes_bound(config.pairs)
    return path, PairSetSpec(identity, identity["count"], arrays, bound, PART, CHUNK, {"sequences": dataset.sequences})


def _remedy(path: Location) -> str:
    return f"remove {path} and run `make cache` again"


def wanted_targets(config: Config, asked: str | None) -> tuple[str, ...]:
    """The targets to be cached: those that the setting's losses need, or `asked`: all, none, or names."""
    if asked == "none" or (asked is None and config.teacher is None):
        return ()
    if config.teacher is None:
        raise RequestError(f"--targets: expected a setting with a teacher, found {config.setting} without; choose another SETTING")
    if asked is None:
        return needed_targets(build_objectives(config, config.teacher.architecture))
    if not (names := tuple(dict.fromkeys(asked.split()))):
        raise RequestError(f"--targets: expected all, none or some of {', '.join(TARGETS)}, found no name; give one")
    return tuple(TARGETS) if asked == "all" else names


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
