"""Fills a cache: for every part that lacks something, its crops, then the teacher's targets over them.

Letters: B pairs of a teacher batch, n pairs of a part.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache import Cache, UnfitNumber, Unit
from cache.backends.base import TakenOver
from cache.unit import PartStream
from configs.errors import RunError
from configs.progress import ProgressBar
from configs.schema import PairsConfig
from kdlosses import LiveTeacher
from pairs.decode import Crops, DecoderOptions, make_decoder
from pairs.decode.decoder import Images, Kind
from pairs.replay import boxes_of, crops_of
from pairs.stored import ROWS
from precompute.crop_writer import CropReader, PartCrops
from precompute.made import decoder_made


@dataclass(frozen=True)
class Work:
    """What one process does to one cache."""

    cache: Cache
    pairs: PairsConfig
    parts: Iterable[int]
    """that lack crops or a target; each is claimed when it is asked for"""
    targets: dict[str, Unit]
    """by name of the target"""
    batch: int
    """pairs a teacher batch"""
    device: torch.device
    feed: Kind
    threads: int
    made: dict[str, str | int | None] = field(default_factory=dict)
    """with what the targets are computed, as far as it changes no more than rounding"""
    lacks: Callable[[Unit, int], bool] = lambda unit, part: not unit.published(part)
    """whether a part of a target is to be computed"""
    done: Callable[[int], None] = lambda part: None
    """told of each part that is whole"""


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

    def add_rounding(self, exact: dict[str, Tensor], rounded: dict[str, Tensor]) -> None:
        """Counts one batch of numbers in, as the teacher gave them and as they are stored."""
        for key, before in exact.items():
            if (after := rounded[key]) is not before:
                changed, whole = (
                    torch.linalg.vector_norm(value.flatten(1), dim=1).double().square().sum().item() for value in (after - before, before)
                )
                self._add_norms(key, changed, whole)

    def add(self, more: Measured) -> None:
        """Counts in what another has measured."""
        for name in ("pairs", "seconds", "teacher_pairs", "teacher_seconds", "waited_seconds"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.decoder = more.decoder or self.decoder
        self.faults = dict(Counter(self.faults) + Counter(more.faults))
        for key, norms in more.rounding.items():
            self._add_norms(key, *norms)

    def _add_norms(self, key: str, changed: float, whole: float) -> None:
        sums = self.rounding.get(key, (0.0, 0.0))
        self.rounding[key] = (sums[0] + changed, sums[1] + whole)


def fill(work: Work, writer: CropReader, teacher: LiveTeacher | None, measured: Measured, progress: ProgressBar) -> None:
    """Makes every part in work.parts whole. Publishes part after part, so that a killed run goes on where it was."""
    began = time.perf_counter()
    parts = writer.parts(work.cache, work.parts)
    if teacher is None:
        for part in parts:
            work.done(part.part)
            measured.pairs += len(part)
            progress.add(len(part))
    else:
        TargetWriter(work, teacher, measured).run(parts, progress)
    measured.seconds += time.perf_counter() - began
    measured.faults = dict(Counter(measured.faults) + writer.faults)


class Slice(NamedTuple):
    """A teacher batch: rows (B,) of a part, the last one repeated where the part ends early."""

    part: PartCrops
    rows: dict[str, np.ndarray]
    valid: int
    """pairs that are no repetition"""
    first: bool
    """the first of its part"""
    last: bool
    """the last of its part"""


class TargetWriter:
    """The teacher over the parts: decode, forward, targets, publish. Batches are cut at part boundaries, never across.

    Numbers go to their files batch by batch: of a part, no more is in memory than two batches and what a compressed chunk takes.
    """

    def __init__(self, work: Work, teacher: LiveTeacher, measured: Measured) -> None:
        self.work, self.teacher, self.measured = work, teacher, measured
        constants = {layer: matrix for unit in work.targets.values() for layer, matrix in unit.constants.items()}
        self.projection = {layer: torch.from_numpy(matrix).to(work.device) for layer, matrix in constants.items()}
        self._lacking: dict[str, Unit] = {}
        """targets of the part under way"""
        self._streams: dict[str, PartStream] = {}
        self._open = contextlib.ExitStack()

    def run(self, parts: Iterator[PartCrops], progress: ProgressBar) -> None:
        """All parts, in order; a batch is stored by a thread of its own while the teacher goes on with the next."""
        work = self.work
        sizes = (work.pairs.ref.size, work.pairs.test.size)
        decoder = make_decoder(work.feed, DecoderOptions(work.batch, sizes, work.device, work.threads))
        self.measured.decoder = decoder.name
        pool = ThreadPoolExecutor(1, "targets")
        storing: Future[None] | None = None
        try:
            decoder.start(self._source(parts))
            while (got := self._next(decoder)) is not None:
                images, piece = got
                if piece.first:
                    self._lacking = {name: unit for name, unit in work.targets.items() if work.lacks(unit, piece.part.part)}
                values = self._targets(images, piece)
                progress.add(piece.valid)
                if storing is not None:
                    storing.result()
                storing = pool.submit(self._store, piece, self._lacking, values)
                del values
            if storing is not None:
                storing.result()
        finally:
            pool.shutdown(cancel_futures=True)
            self._open.close()
            decoder.close()

    def _next(self, decoder: Iterator[tuple[Images, Slice]]) -> tuple[Images, Slice] | None:
        began = time.perf_counter()
        got = next(decoder, None)
        self.measured.waited_seconds += time.perf_counter() - began
        return got

    def _source(self, parts: Iterator[PartCrops]) -> Iterator[tuple[Crops, Slice]]:
        """Every batch has the same size, so that a kernel chosen by size is the same for every pair of every run."""
        for part in parts:
            for first in range(0, len(part), self.work.batch):
                at = np.minimum(np.arange(first, first + self.work.batch), len(part) - 1)
                rows = {name: part.rows[name][at] for name in ROWS}
                stop = first + self.work.batch
                piece = Slice(part, rows, min(stop, len(part)) - first, first == 0, stop >= len(part))
                yield crops_of(rows, [part.ref[row] for row in at], [part.test[row] for row in at]), piece

    def _targets(self, images: Images, piece: Slice) -> dict[str, dict[str, np.ndarray]]:
        """The numbers of a batch that its part lacks: target -> array -> (valid, ...) in the stored dtype."""
        began = time.perf_counter()
        boxes = boxes_of(piece.rows, self.work.pairs, self.work.device)
        with torch.inference_mode():
            numbers = self.teacher.one_by_one(*images, boxes, tuple(self._lacking), self.projection)
            stored = {name: self._stored(name, exact, piece.valid) for name, exact in zip(self._lacking, numbers, strict=True)}
        self.measured.teacher_seconds += time.perf_counter() - began
        self.measured.teacher_pairs += piece.valid
        return stored

    def _stored(self, name: str, exact: dict[str, Tensor], valid: int) -> dict[str, np.ndarray]:
        """The first `valid` rows of a target as they are stored."""
        exact = {key: value[:valid] for key, value in exact.items()}
        rounded = self.teacher.rounded(exact)
        self.measured.add_rounding(exact, rounded)
        # a value beyond float16 becomes inf here, which the store refuses by naming the pair
        dtypes = {array.name: getattr(torch, array.dtype) for array in self._lacking[name].arrays.values()}
        return {array: rounded[f"{name}/{array}"].to(dtype, copy=True).cpu().numpy() for array, dtype in dtypes.items()}

    def _store(self, piece: Slice, lacking: dict[str, Unit], values: dict[str, dict[str, np.ndarray]]) -> None:
        if piece.first:
            made = self.work.made | {"decoder": decoder_made(self.measured.decoder)}
            self._streams = {name: self._open.enter_context(unit.stream(piece.part.part, made)) for name, unit in lacking.items()}
        for name, stream in self._streams.items():
            try:
                stream.append(values.pop(name))
            except UnfitNumber as error:
                raise RunError(
                    f"{error.fact}; a trained teacher stays far within: look at its weights with `teachonce models show FILE`,"
                    f" or cache others without {name} (TARGETS=...)"
                ) from error
        if piece.last:
            self._publish(piece.part.part)

    def _publish(self, part: int) -> None:
        # what another has taken over, it will publish
        with contextlib.suppress(TakenOver):
            for stream in self._streams.values():
                stream.publish()
        self._open.close()
        self.work.done(part)
        start, stop = self.work.cache.bounds(part)
        self.measured.pairs += stop - start
