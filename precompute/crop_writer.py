"""The crops of a part: drawn, cut, encoded and published, or read back where an earlier run published them.

Letters: n pairs of a part, N proposals. Image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cache import Cache
from configs.errors import RunError
from configs.schema import PairsConfig
from pairs.frames import FrameError
from precompute.crops import PairCrops, pair_or_fault
from precompute.datasets import Dataset
from precompute.made import crops_made
from precompute.sampling import DrawnPairs, draw

# A pair whose frames cannot be used is drawn anew at most this often before the run gives up.
MOST_ATTEMPTS = 50


@dataclass
class PartCrops:
    """One part: the arrays of `pairs.stored.pair_arrays`, and the encoded crops as n uint8 arrays each."""

    part: int
    rows: dict[str, np.ndarray]
    ref: list[np.ndarray]
    test: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.ref)


class CropReader:
    """Reads parts, one part ahead of whoever asks."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        """message of an unusable frame -> pairs that were drawn anew because of it"""
        self._ahead = ThreadPoolExecutor(1, "parts")

    def parts(self, cache: Cache, numbers: Iterable[int]) -> Iterator[PartCrops]:
        """These parts of a cache, in order; while the caller works on one, the next is asked for and made."""
        ahead = iter(numbers)
        future = self._ahead.submit(self._next, cache, ahead)
        while (part := future.result()) is not None:
            future = self._ahead.submit(self._next, cache, ahead)
            yield part

    def _next(self, cache: Cache, numbers: Iterator[int]) -> PartCrops | None:
        number = next(numbers, None)
        return None if number is None else self.part(cache, number)

    def close(self) -> None:
        """Stops the threads; a part under way is finished."""
        self._ahead.shutdown(cancel_futures=True)

    def part(self, cache: Cache, number: int) -> PartCrops:
        """One part. RunError: it is not published, or damaged."""
        start, stop = cache.bounds(number)
        ref, test = cache.read_crops(start, stop)
        return PartCrops(number, cache.pairs.read(start, stop), ref, test)


class CropWriter(CropReader):
    """Makes parts where they are not published; crops are cut by `threads` threads.

    OpenCV lets go of the interpreter while it reads, resizes and encodes, so threads are enough.
    """

    def __init__(self, dataset: Dataset, pairs: PairsConfig, threads: int) -> None:
        super().__init__()
        self.dataset, self.pairs = dataset, pairs
        self.training = dataset.split == "train"
        self._pool = ThreadPoolExecutor(threads, "crops")

    def close(self) -> None:
        """Stops the threads; pairs under way are finished and a part that is being written, whatever is queued is dropped."""
        self._pool.shutdown(cancel_futures=True)
        super().close()

    def part(self, cache: Cache, number: int) -> PartCrops:
        """One part, read or made."""
        return super().part(cache, number) if cache.pairs.published(number) else self.write(cache, number)

    def write(self, cache: Cache, part: int) -> PartCrops:
        """Cuts and publishes a part; what is damaged of a published one is written again. OtherNumbers: it comes out otherwise."""
        start, stop = cache.bounds(part)
        drawn, crops = self.cut(start, stop)
        drawn_names = [name for name in cache.pairs.arrays if name != "crop_region"]
        rows = {name: getattr(drawn, name) for name in drawn_names} | {"crop_region": np.stack([crop.region for crop in crops])}
        cache.pairs.write(part, rows, crops=[(crop.ref, crop.test) for crop in crops], made=crops_made())
        ref, test = ([np.frombuffer(getattr(crop, image), np.uint8) for crop in crops] for image in ("ref", "test"))
        return PartCrops(part, rows, ref, test)

    def cut(self, start: int, stop: int) -> tuple[DrawnPairs, list[PairCrops]]:
        """Pairs start ... stop - 1 with their crops; pairs of unusable frames drawn anew, each attempt a function of its number.

        RunError: one pair after MOST_ATTEMPTS, or more than half of the pairs at the first attempt.
        """
        rows = draw(self.dataset, self.pairs, start, stop - start, self.training)
        made = list(self._pool.map(lambda row: pair_or_fault(self.dataset.source, rows, row, self.pairs), range(len(rows))))
        failed = [row for row, crops in enumerate(made) if isinstance(crops, FrameError)]
        if len(failed) > len(made) // 2:
            raise RunError(
                f"dataset {self.dataset.name}: expected usable frames, found {len(failed)} of {len(made)} pairs without"
                f" (first: {made[failed[0]]}); check the data set's folder and run again"
            )
        for row in failed:
            made[row] = self._draw_anew(rows, start, row, made[row])
        return rows, [crops for crops in made if isinstance(crops, PairCrops)]

    def _draw_anew(self, rows: DrawnPairs, start: int, row: int, fault: PairCrops | FrameError) -> PairCrops:
        for attempt in range(1, MOST_ATTEMPTS):
            self.faults[str(fault)] += 1
            other = draw(self.dataset, self.pairs, start + row, 1, self.training, attempt)
            rows.put(row, other)
            fault = pair_or_fault(self.dataset.source, other, 0, self.pairs)
            if isinstance(fault, PairCrops):
                return fault
        raise RunError(
            f"dataset {self.dataset.name}: expected usable frames for pair {start + row}, found none in {MOST_ATTEMPTS} draws"
            f" (last: {fault}); check the data set's folder and run again"
        )
