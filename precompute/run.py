"""One cache from a configuration: checked, created, filled, reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache import Cache, PairSetSpec, Unit
from configs import Config, RequestError, dataset_entry
from configs.arrays import TargetSpec
from configs.catalog import members
from configs.files import fingerprint
from configs.machine import processors
from kdlosses import TARGETS, LiveTeacher, build_objectives, needed_targets, sizes_of, target_spec
from models import TeacherSpec, choose_teacher, pick_device
from pairs.identity import pair_identity
from pairs.replay import crop_bytes_bound, pair_arrays
from precompute import cost
from precompute.crop_writer import CropWriter
from precompute.datasets import Dataset, open_entry
from precompute.target_writer import Measured, Work, fill

# pairs of a shard, and of an inner chunk: the units of writing and of reading
PART, CHUNK = 1024, 64


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
    """(i, n): every n-th part from part i on; None: torchrun's rank and world, else all"""
    device: str = "auto"
    threads: int | None = None

    @property
    def rank_and_world(self) -> tuple[int, int]:
        """(i, n) of this process."""
        return self.share or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def make_caches(request: Request) -> None:
    """Fills the caches of all data sets and splits; prints `cache: PATH` for each, last, on rank 0."""
    rank, world = request.rank_and_world
    named = {split: members(request.datasets, split) for split in request.splits}
    everything = dict.fromkeys(name for names in named.values() for name in names)
    caches = [make(request, name, split) for name in everything for split, names in named.items() if name in names]
    if world > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        _wait_for_all()
    if rank == 0:
        print("\n".join(f"cache: {cache.path}" for cache in caches))


def make(request: Request, name: str, split: str) -> Cache:
    """Fills the cache of one data set and split."""
    config = request.config
    dataset = open_usable(config, name, split)
    wanted = wanted_targets(config, request.targets)
    teacher = choose_teacher(config.teacher) if wanted and config.teacher is not None else None
    if teacher is not None and teacher.note:
        print(teacher.note, file=sys.stderr)
    specs = [target_spec(target, sizes_of(config, teacher)) for target in wanted] if teacher else []
    cache = create(config, dataset)
    device = pick_device(request.device, "--device")
    # a teacher of another network is refused before anything is written
    live = LiveTeacher(teacher.load(device), teacher.feature_bits) if teacher else None
    targets = {spec.name: _add(cache, teacher, spec) for spec in specs} if teacher else {}
    rank, world = request.rank_and_world
    lacking = {part for unit in (cache.pairs, *targets.values()) for part in unit.missing()}
    parts = sorted(lacking)[rank::world]
    threads = request.threads or processors()
    writer = CropWriter(cache, dataset, config.pairs, threads)
    try:
        if rank == 0:
            done = cache.parts - len(lacking)
            print(f"{cache.path}: {cache.count:,} pairs of {len(dataset.sequences):,} sequences, {done} of {cache.parts} parts done")
        if parts:
            print(cost.estimate(cache, writer, targets), flush=True)
            batch = teacher.batch if teacher else 1
            work = Work(cache, config.pairs, parts, targets, batch, device, config.train.feed, threads, shown=rank == 0)
            report(config, cache, fill(work, writer, live), teacher, list(targets))
    finally:
        writer.close()
    return cache


def open_usable(config: Config, name: str, split: str) -> Dataset:
    """The data set, with sequences that pairs can be drawn from. RequestError: none, or still images for pairs.mode=causal."""
    dataset = open_entry(name, dataset_entry(name), split)
    if dataset.still and config.pairs.mode == "causal":
        raise RequestError(
            f"dataset {name}: expected video for pairs.mode=causal (test strictly after ref), found still images; use pairs.mode=interval"
        )
    dataset.usable(config.pairs)
    return dataset


def create(config: Config, dataset: Dataset) -> Cache:
    """The cache of this pair set, made empty if there is none."""
    identity = pair_identity(config.pairs, dataset.name, dataset.split) | {"content_sha256": dataset.content_hash}
    path = Path(config.cache_dir) / f"{dataset.name}-{dataset.split}-{fingerprint(identity)[:10]}"
    spec = PairSetSpec(
        identity,
        identity["count"],
        pair_arrays(config.pairs),
        crop_bytes_bound(config.pairs),
        part=PART,
        chunk=CHUNK,
        metadata={"sequences": dataset.sequences},
    )
    return Cache.create(path, spec, remedy=f"remove {path} and run `make cache` again")


def wanted_targets(config: Config, asked: str | None) -> tuple[str, ...]:
    """The targets to be cached: those that the setting's losses need, or `asked`: all, none, or names."""
    if asked == "none" or (asked is None and config.teacher is None):
        return ()
    if config.teacher is None:
        raise RequestError(f"--targets: expected a setting with a teacher, found {config.setting} without; choose another SETTING")
    if asked is None:
        return needed_targets(build_objectives(config, config.teacher.architecture))
    return tuple(TARGETS) if asked == "all" else tuple(asked.split())


def _add(cache: Cache, teacher: TeacherSpec, spec: TargetSpec) -> Unit:
    remedy = (
        "give this teacher a name of its own (teacher.name=...) or drop the old one:"
        f" python -m cache gc {cache.path} --teacher {teacher.name} (of it only this target: --target {teacher.name}/{spec.name})"
    )
    return cache.add_target(teacher.name, teacher.identity(), spec, remedy=remedy)


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
    if line := cost.break_even(config, measured):
        print(line)


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


def _wait_for_all() -> None:
    """Until every process of this torchrun has filled its parts."""
    torch.distributed.init_process_group("gloo")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
