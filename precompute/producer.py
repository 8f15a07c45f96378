"""The crops of a part: drawn, cut, encoded and published, or read back where an earlier run published them.

Letters: n pairs of a part, N proposals. Image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cache import Array, Cache
from configs.errors import RunError
from configs.schema import Pairs
from precompute.crops import CropSpec, FrameError, PairCrops, build_crops
from precompute.datasets import Dataset
from precompute.sampling import PairSet, draw

# A pair whose frames cannot be used is drawn anew at most this often before the run gives up.
MOST_ATTEMPTS = 50
# Rows a worker takes at a time: long enough to amortise the hand-over, short enough to share a part evenly.
BLOCK = 8


def pair_arrays(pairs: Pairs) -> list[Array]:
    """The arrays of a pair set (crops aside)."""
    return [
        Array("sequence", (), "int32", "index of the sequence in the cache's list of sequences"),
        Array("frame", (2,), "int32", "frame numbers of (ref, test), from 0"),
        Array("attempt", (), "uint8", "how often the pair was drawn anew because a frame could not be used"),
        Array("ref_box", (4,), "float32", "annotated box (x, y, w, h) in the ref crop, pixels"),
        Array("test_box", (4,), "float32", "annotated box (x, y, w, h) in the test crop, pixels"),
        Array("proposals", (pairs.proposals, 4), "float32", "proposals (x, y, w, h) in the test crop, pixels"),
        Array("brightness", (2,), "float32", "brightness factors of (ref, test)"),
        Array("grey", (), "bool", "both images of the pair are grey"),
        Array("crop_region", (2, 3), "int32", "(x1, y1, side) of the (ref, test) crop in its frame, pixels"),
    ]


@dataclass
class PartCrops:
    """One part: the arrays of `pair_arrays`, and the encoded crops as n uint8 arrays each."""

    part: int
    arrays: dict[str, np.ndarray]
    ref: list[np.ndarray]
    test: list[np.ndarray]


class Producer:
    """Makes or reads parts in a background thread, one part ahead of whoever asks; crops are cut by `threads` threads.

    OpenCV lets go of the interpreter while it reads, resizes and encodes, so threads are enough.
    """

    def __init__(self, cache: Cache, dataset: Dataset, pairs: Pairs, training: bool, parts: list[int], threads: int) -> None:
        self.cache, self.dataset, self.pairs, self.training, self.parts = cache, dataset, pairs, training, parts
        self.faults: Counter[str] = Counter()
        """message of an unusable frame -> pairs that were drawn anew because of it"""
        self._pool = ThreadPoolExecutor(threads, "crops")
        self._ahead = ThreadPoolExecutor(1, "parts")
        self._futures: dict[int, Future[PartCrops]] = {}
        self._lock = threading.Lock()

    def get(self, place: int) -> PartCrops:
        """The part self.parts[place]; starts the next one, forgets those before the last one asked for."""
        with self._lock:
            for one in (place, place + 1):
                if one < len(self.parts) and one not in self._futures:
                    self._futures[one] = self._ahead.submit(self._make, self.parts[one])
            # the decoder reads one part while the targets of the part before it are still computed
            for old in [one for one in self._futures if one < place - 1]:
                del self._futures[old]
            future = self._futures[place]
        return future.result()

    def close(self) -> None:
        """Stops the threads; a part under way is finished, queued ones are dropped."""
        self._ahead.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _make(self, part: int) -> PartCrops:
        start, stop = self.cache.bounds(part)
        if self.cache.pairs.published(part):
            ref, test = self.cache.read_crops(start, stop)
            return PartCrops(part, self.cache.pairs.read(start, stop), ref, test)
        rows, crops = self.cut(start, stop)
        arrays = {
            name: getattr(rows, name) for name in ("sequence", "frame", "attempt", "ref_box", "test_box", "proposals", "brightness", "grey")
        } | {"crop_region": np.stack([crop.region for crop in crops])}
        self.cache.pairs.write(part, arrays, crops=[(crop.ref, crop.test) for crop in crops])
        ref, test = ([np.frombuffer(getattr(crop, image), np.uint8) for crop in crops] for image in ("ref", "test"))
        return PartCrops(part, arrays, ref, test)

    def cut(self, start: int, stop: int) -> tuple[PairSet, list[PairCrops]]:
        """Pairs start ... stop - 1 with their crops; pairs of unusable frames drawn anew, each attempt a function of its number.

        RunError: one pair after MOST_ATTEMPTS, or more than half of the pairs at the first attempt.
        """
        rows = draw(self.dataset, self.pairs, start, stop - start, self.training)
        spec = CropSpec.of(self.pairs)
        blocks = [range(first, min(first + BLOCK, len(rows))) for first in range(0, len(rows), BLOCK)]
        made = [one for block in self._pool.map(lambda block: build_crops(self.dataset.source, rows, spec, block), blocks) for one in block]
        failed = [row for row, one in enumerate(made) if isinstance(one, FrameError)]
        if len(failed) > len(made) // 2:
            raise RunError(
                f"dataset {self.dataset.name}: expected usable frames, found {len(failed)} of {len(made)} pairs without"
                f" (first: {made[failed[0]]}); check the data set's folder and run again"
            )
        for row in failed:
            made[row] = self._draw_anew(rows, start, row, made[row], spec)
        return rows, [one for one in made if isinstance(one, PairCrops)]

    def _draw_anew(self, rows: PairSet, start: int, row: int, fault: PairCrops | FrameError, spec: CropSpec) -> PairCrops:
        for attempt in range(1, MOST_ATTEMPTS):
            self.faults[str(fault)] += 1
            other = draw(self.dataset, self.pairs, start + row, 1, self.training, attempt)
            rows.put(np.array([row]), other)
            (fault,) = build_crops(self.dataset.source, other, spec)
            if isinstance(fault, PairCrops):
                return fault
        raise RunError(
            f"dataset {self.dataset.name}: expected usable frames for pair {start + row}, found none in {MOST_ATTEMPTS} draws"
            f" (last: {fault}); check the data set's folder and run again"
        )
