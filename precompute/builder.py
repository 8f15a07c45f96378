"""Fills a cache: for every part that lacks something, its crops, then the teacher's targets over them.

Letters: B pairs of a teacher batch, n pairs of a part. Image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

import models
from cache import Cache, Unit
from configs.progress import Progress
from configs.schema import Pairs as PairsSection
from kdlosses import targets as target_table
from kdlosses.pairs import Pairs
from models.preprocess import CropBatch, make_decoder
from models.preprocess.decoder import Kind
from precompute.producer import Producer
from precompute.teachers import TargetPlan


@dataclass
class Work:
    """What one process does to one cache."""

    cache: Cache
    pairs: PairsSection
    parts: list[int]
    """parts of this process that lack crops or a target"""
    targets: list[tuple[TargetPlan, Unit]]
    batch: int
    """pairs a teacher batch"""
    device: torch.device
    feed: Kind
    threads: int
    shown: bool = True


@dataclass
class Measured:
    """Seconds and counts of the work, for the history and the break-even number."""

    pairs: int = 0
    seconds: float = 0.0
    teacher_pairs: int = 0
    teacher_seconds: float = 0.0
    """forward passes and targets, waiting for crops left out"""
    waited_seconds: float = 0.0
    """the teacher waited for decoded crops"""
    decoder: str = ""
    faults: dict[str, int] = field(default_factory=dict)
    rounding: dict[str, tuple[float, float]] = field(default_factory=dict)
    """array of whole features -> squared norms of what teacher.feature_bits changed in it, and of it, over teacher_pairs"""

    def rounding_errors(self) -> dict[str, float]:
        """Norm of the change over the norm of the teacher's float32 numbers, by array ("target/array")."""
        return {key: math.sqrt(changed / whole) if whole else 0.0 for key, (changed, whole) in self.rounding.items()}


def fill(work: Work, producer: Producer, teacher: models.Teacher | None) -> Measured:
    """Makes every part in work.parts whole. Publishes part after part, so that a killed run goes on where it was."""
    measured = Measured()
    began = time.perf_counter()
    total = sum(stop - start for start, stop in map(work.cache.bounds, work.parts))
    with Progress(f"cache {work.cache.path.name}", total, "pair", shown=work.shown) as progress:
        if teacher is None:
            for place in range(len(work.parts)):
                progress.add(len(producer.get(place).ref))
        else:
            TargetPass(work, producer, teacher, measured).run(progress)
    measured.pairs, measured.seconds = total, time.perf_counter() - began
    measured.faults = dict(producer.faults)
    return measured


class TargetPass:
    """The teacher over the parts: decode, forward, targets, publish. Batches are cut at part boundaries, never across."""

    def __init__(self, work: Work, producer: Producer, teacher: models.Teacher, measured: Measured) -> None:
        self.work, self.producer, self.teacher, self.measured = work, producer, teacher, measured
        # every batch has the same size, so that a kernel chosen by size is the same for every pair of every run
        self.slots = [
            (place, first)
            for place, part in enumerate(work.parts)
            for first in range(0, work.cache.bounds(part)[1] - work.cache.bounds(part)[0], work.batch)
        ]
        names = [plan.name for plan, _ in work.targets]
        self.names, self.layers = names, target_table.layers_of(names)
        self.dtypes = {f"{plan.name}/{array.name}": getattr(torch, array.dtype) for plan, _ in work.targets for array in plan.arrays}
        self.projection = next((plan.projection for plan, _ in work.targets if plan.projection is not None), None)
        self.feature_bits = next((plan.feature_bits for plan, _ in work.targets if plan.feature_bits is not None), None)

    def run(self, progress: Progress) -> None:
        """All parts, in order; a part is written by a thread of its own while the teacher goes on with the next."""
        work = self.work
        decoder = make_decoder(
            work.feed, self._source, images=2 * work.batch, size=work.pairs.crop_size, device=work.device, threads=work.threads
        )
        self.measured.decoder = decoder.name
        writer = ThreadPoolExecutor(1, "targets")
        pending: Future[None] | None = None
        try:
            slot = 0
            for place, part in enumerate(work.parts):
                values: dict[str, list[torch.Tensor]] = {key: [] for key in self.dtypes}
                count = len(self.producer.get(place).ref)
                for first in range(0, count, work.batch):
                    self._batch(decoder.batch, slot, place, min(work.batch, count - first), values)
                    slot += 1
                    progress.add(min(work.batch, count - first))
                if pending is not None:
                    pending.result()
                pending = writer.submit(self._write, part, {key: torch.cat(rows).numpy() for key, rows in values.items()})
            if pending is not None:
                pending.result()
        finally:
            writer.shutdown()
            decoder.close()

    def _rows(self, slot: int) -> tuple[int, np.ndarray]:
        """Place of the part and rows (B,) of a slot in it, the last one repeated where the part ends early. IndexError past the end."""
        place, first = self.slots[slot]
        start, stop = self.work.cache.bounds(self.work.parts[place])
        return place, np.minimum(np.arange(first, first + self.work.batch), stop - start - 1)

    def _source(self, slot: int) -> CropBatch:
        place, rows = self._rows(slot)
        part = self.producer.get(place)
        images = [part.ref[row] for row in rows] + [part.test[row] for row in rows]
        grey = part.arrays["grey"][rows].astype(bool)
        return CropBatch(
            jpegs=images,
            brightness=part.arrays["brightness"][rows].T.reshape(-1).astype(np.float32),
            grey=np.concatenate([grey, grey]),
            flip=np.zeros(len(images), bool),
            blur=np.zeros(len(images), np.float32),
        )

    def _batch(
        self, decode: Callable[[int], torch.Tensor], slot: int, place: int, valid: int, values: dict[str, list[torch.Tensor]]
    ) -> None:
        began = time.perf_counter()
        images = decode(slot)
        decoded = time.perf_counter()
        _, rows = self._rows(slot)
        arrays = self.producer.get(place).arrays
        ref_box, test_box, proposals = (
            torch.from_numpy(np.ascontiguousarray(arrays[name][rows])).to(images.device) for name in ("ref_box", "test_box", "proposals")
        )
        pairs = Pairs(ref_box, test_box, proposals, self.work.pairs.crop_size)
        with torch.inference_mode():
            outputs = self.teacher(images[: len(rows)], images[len(rows) :], ref_box, proposals, self.layers)
            exact = target_table.compute(self.names, outputs, pairs, self.projection)
            found = target_table.round_features(exact, self.feature_bits)
            for key, dtype in self.dtypes.items():
                # a value beyond float16 becomes inf here, which the store refuses by naming the pair
                values[key].append(found[key][:valid].to(dtype).cpu())
                if found[key] is not exact[key]:
                    self._measure_rounding(key, exact[key][:valid], found[key][:valid])
        self.measured.waited_seconds += decoded - began
        self.measured.teacher_seconds += time.perf_counter() - decoded
        self.measured.teacher_pairs += valid

    def _measure_rounding(self, key: str, exact: torch.Tensor, rounded: torch.Tensor) -> None:
        changed, whole = self.measured.rounding.get(key, (0.0, 0.0))
        sums = [torch.linalg.vector_norm(value.flatten(1), dim=1).double().square().sum().item() for value in (rounded - exact, exact)]
        self.measured.rounding[key] = (changed + sums[0], whole + sums[1])

    def _write(self, part: int, values: dict[str, np.ndarray]) -> None:
        for plan, unit in self.work.targets:
            if not unit.published(part):
                unit.write(part, {array.name: values[f"{plan.name}/{array.name}"] for array in plan.arrays})
