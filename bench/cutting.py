"""Frames and precompute: raw frames alone, the teacher's forward pass alone, and `make cache` over several parts, in turns."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

from bench.ground import Ground, ready_batch
from bench.turns import Measured, peak, reset_peak, timed
from cache import Cache
from configs import Config
from configs.catalog import dataset_entry
from configs.machine import processors
from kdlosses import LiveTeacher, build_objectives
from models import choose_teacher
from precompute.crop_writer import CropWriter
from precompute.datasets import open_entry

FRAMES = 32
"""Pairs of one measurement of frames"""


def precompute_rates(ground: Ground, options: argparse.Namespace) -> dict[str, Measured]:
    """frames: both frames of a pair read, cut, encoded; teacher: forward pass and targets on ready tensors; precompute: all of it."""
    config, device = ground.config(), ground.device
    measured = {name: Measured() for name in ("frames", *(["teacher"] if config.teacher else []), "precompute")}
    dataset = open_entry("demo", dataset_entry("demo"), "train")
    forward = teacher_alone(config, ground) if config.teacher else None
    batch = config.teacher.batch if config.teacher else 1
    with closing(CropWriter(dataset, config.pairs, processors())) as writer:
        cut = partial(_next_pairs, writer, count(step=FRAMES))
        cut()
        for turn in range(options.turns):
            for name, work, pairs in (("frames", cut, FRAMES), ("teacher", forward, batch)):
                if work is not None:
                    reset_peak(device)
                    measured[name].seconds.append(timed(work, device, 2) / pairs)
                    measured[name].peak = max(measured[name].peak, peak(device))
            reset_peak(device)
            measured["precompute"].seconds.append(fill_anew(ground, turn, options))
            measured["precompute"].peak = max(measured["precompute"].peak, peak(device))
    return measured


def _next_pairs(writer: CropWriter, starts: Iterator[int]) -> None:
    start = next(starts)
    writer.cut(start, start + FRAMES)


def teacher_alone(config: Config, ground: Ground) -> Callable[[], object]:
    """The teacher's targets of one of its batches of ready tensors."""
    assert config.teacher is not None
    teacher = choose_teacher(config.teacher)
    live = LiveTeacher(teacher.load(ground.device), teacher.feature_bits, config.train.channels_last)
    objective = build_objectives(config, teacher.architecture)[0]
    batch = ready_batch(config.teacher.batch, config, ground.device)
    names = objective.needs.targets

    def forward() -> object:
        return live.targets(batch.ref, batch.test, batch.boxes, names, objective.projection)

    forward()
    return forward


def fill_anew(ground: Ground, turn: int, options: argparse.Namespace) -> float:
    """Seconds a pair of `make cache` for a pair set of its own, start-up left out."""
    pairs = options.parts * options.part_pairs
    changes = (f"pairs.seed={turn + 1}", f"pairs.count={pairs}", f"cache_dir={ground.folder / f'turn{turn}'}")
    ground.fill(*changes, splits=("train",), part=options.part_pairs)
    cache = Cache.open(next(Path(ground.folder, f"turn{turn}").glob("demo-train-*")))
    return float(cache.history()[-1]["seconds"]) / pairs


def reading(ground: Ground, turns: int) -> Measured:
    """The cache read by chunks, warm: targets and encoded crops."""
    cache = Cache.open(next(Path(ground.config().cache_dir).glob("demo-train-*")))
    units = [cache.pairs, *cache.targets().values()]

    def sweep() -> None:
        for start in range(0, cache.count, cache.chunk):
            stop = min(start + cache.chunk, cache.count)
            cache.read_crops(start, stop)
            for unit in units:
                unit.read(start, stop)

    sweep()
    return Measured([statistics.median(timed(sweep, ground.device) for _ in range(3)) / cache.count for _ in range(turns)])
