"""From the caches to batches on the device: chunks read ahead by a thread, crops decoded ahead, targets beside them.

Letters: B pairs of a batch (on this process), N proposals, S side of the crops. Boxes (x, y, w, h), crop pixels. Image axis (2): 0 ref,
1 test.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from cache import Cache, Unit
from configs.errors import RunError
from configs.schema import Augmentation
from configs.schema import Pairs as PairsSection
from kdlosses import TARGETS
from kdlosses.pairs import Pairs
from models.preprocess import BrokenCrop, CropBatch, make_decoder
from models.preprocess.decoder import Kind
from train.augment import ALL, choose_proposals, combined, draw_fresh, flip_boxes, fresh_proposals, is_fresh, replayed

ROWS = ("ref_box", "test_box", "proposals", "brightness", "grey")
# batches assembled ahead of the decoder
AHEAD = 4


class Positions(Protocol):
    """See train.order."""

    def take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(cache, pair) of positions."""


@dataclass
class Batch:
    """One step's data on the device."""

    ref: Tensor
    """(B, 3, S, S) normalised"""
    test: Tensor
    pairs: Pairs
    targets: dict[str, Tensor]
    """"target/array" -> (B, ...) float32; only what was asked of the cache, of a fresh batch only what belongs to it all the same"""
    fresh: bool
    source: np.ndarray
    """(B,) which cache"""
    pair: np.ndarray
    """(B,) which pair of it"""


@dataclass
class _Chunk:
    rows: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    ref: list[np.ndarray]
    test: list[np.ndarray]


@dataclass
class _Assembled:
    crops: CropBatch
    rows: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    valid: int
    fresh: bool
    source: np.ndarray
    pair: np.ndarray


class Feed:
    """Batches by step; any step may be asked for, ascending steps are fast.

    Args:
        caches: complete pair sets of one crop size; order: which pair comes when.
        targets: for each cache, target name -> unit that is read with every batch that replays the recorded images.
        batch: B of this process; rank, world: the step's pairs are shared out in strides over the processes.
        total: pairs in all, for an order that ends (the last batch is then shorter); None: endless.
        augment: replay the recorded photometry; none: plain crops; fresh: new for every position. mix: share of fresh steps among replayed.
        fresh: what a fresh step draws anew; fresh_targets: names of the targets that belong to a fresh step's pairs all the same.
        proposals: N of a step, drawn anew for every position from those of the cache; None: all of them, as recorded.
        pairs: the pair set's section (ranges of fresh photometry, proposals).
    """

    def __init__(
        self,
        caches: Sequence[Cache],
        order: Positions,
        targets: Sequence[Mapping[str, Unit]],
        *,
        batch: int,
        pairs: PairsSection,
        device: torch.device,
        kind: Kind = "auto",
        threads: int = 1,
        augment: Literal["replay", "fresh", "none"] = "replay",
        mix: float = 0.0,
        fresh: Collection[Augmentation] = ALL,
        fresh_targets: Collection[str] = (),
        proposals: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        total: int | None = None,
        keep: int = 40,
    ) -> None:
        self.caches, self.order, self.units = list(caches), order, list(targets)
        self.batch_size, self.section, self.device = batch, pairs, device
        self.augment, self.mix, self.seed = augment, mix, seed
        self.fresh, self.fresh_targets, self.proposals = frozenset(fresh), frozenset(fresh_targets), proposals
        self.rank, self.world, self.total = rank, world, total
        self.waited_s = 0.0
        self._keep = keep
        self._chunks: OrderedDict[tuple[int, int], _Chunk] = OrderedDict()
        self._reader = ThreadPoolExecutor(1, "feed")
        self._futures: dict[int, Future[_Assembled]] = {}
        self._given: dict[int, _Assembled] = {}
        self._decoder = make_decoder(
            kind, self._source, images=2 * batch, size=pairs.crop_size, device=device, threads=threads, fresh=augment == "fresh" or mix > 0
        )
        self.decoder = self._decoder.name

    @property
    def steps(self) -> int | None:
        """Steps until the order ends; None: never."""
        return None if self.total is None else -(-self.total // (self.batch_size * self.world))

    def is_fresh(self, step: int) -> bool:
        """Whether the step's images are new, so that no cached target belongs to them."""
        return self.augment == "fresh" or is_fresh(self.seed, step, self.mix)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps start ... stop - 1."""
        return (self.batch(step) for step in range(start, stop))

    def batch(self, step: int) -> Batch:
        """The batch of a step; `waited_s` grows by the time until it was there.

        RunError: a part that is not published, a crop that is no JPEG of the size; IndexError past the end.
        """
        began = time.perf_counter()
        try:
            images = self._decoder.batch(step)
        except BrokenCrop as error:
            raise self._named(error, self._given.pop(step)) from error
        one = self._given.pop(step)
        for old in [key for key in (*self._given, *self._futures) if key < step]:
            self._given.pop(old, None)
            self._futures.pop(old, None)
        count = one.valid
        boxes = {name: self._tensor(one.rows[name][:count]) for name in ("ref_box", "test_box", "proposals")}
        targets = {key: self._tensor(value[:count]).float() for key, value in one.targets.items()}
        ref, test = images[:count], images[self.batch_size : self.batch_size + count]
        self.waited_s += time.perf_counter() - began
        pairs = Pairs(boxes["ref_box"], boxes["test_box"], boxes["proposals"], self.section.crop_size)
        return Batch(ref, test, pairs, targets, one.fresh, one.source[:count], one.pair[:count])

    def close(self) -> None:
        """Ends the threads."""
        self._decoder.close()
        self._reader.shutdown(cancel_futures=True)

    def _named(self, error: BrokenCrop, one: _Assembled) -> RunError:
        """The decoder's error by cache and pair."""
        which, at = divmod(error.number, self.batch_size)
        path, size = self.caches[one.source[at]].path, self.section.crop_size
        return RunError(
            f"{path}, pair {one.pair[at]}, {('ref', 'test')[which]} crop: expected a JPEG of {size} x {size}, found {error.found};"
            f" look for the damage with `make verify CACHE={path}`"
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _source(self, step: int) -> CropBatch:
        last = self.steps
        if last is not None and step >= last:
            raise IndexError(step)
        for ahead in range(step, step + AHEAD if last is None else min(step + AHEAD, last)):
            if ahead not in self._futures and ahead not in self._given:
                self._futures[ahead] = self._reader.submit(self._assemble, ahead)
        future = self._futures.pop(step, None)
        if future is not None:
            self._given[step] = future.result()
        return self._given[step].crops

    def _assemble(self, step: int) -> _Assembled:
        whole = self.batch_size * self.world
        first = step * whole
        source, pair = self.order.take(first, whole)
        mine = np.arange(self.rank, whole, self.world)
        source, pair = source[mine], pair[mine]
        fresh = self.is_fresh(step)
        rows, targets, refs, tests = self._gather(source, pair, fresh)
        valid = self.batch_size if self.total is None else int((first + mine < self.total).sum())
        look = replayed(rows["brightness"], rows["grey"])
        if fresh:
            drawn = draw_fresh(self.seed, first, whole, self.section).take(mine)
            look = combined(look, drawn, self.fresh)
            for name in ("ref_box", "test_box", "proposals"):
                rows[name] = flip_boxes(rows[name], look.flip, self.section.crop_size)
        elif self.augment == "none":
            look = replayed(np.ones_like(look.brightness), np.zeros_like(look.grey))
        if fresh and "proposals" in self.fresh:
            section = self.section.model_copy(update={"proposals": self.proposals or self.section.proposals})
            rows["proposals"] = fresh_proposals(rows["test_box"], self.seed, first + mine, section)
        elif self.proposals is not None:
            self._choose(rows, targets, first + mine)
        crops = CropBatch(
            jpegs=[*refs, *tests],
            brightness=np.ascontiguousarray(look.brightness.T).reshape(-1),
            grey=np.tile(look.grey, 2),
            flip=np.tile(look.flip, 2),
            blur=np.ascontiguousarray(look.blur.T).reshape(-1),
        )
        return _Assembled(crops, rows, targets, valid, fresh, source, pair)

    def _choose(self, rows: dict[str, np.ndarray], targets: dict[str, np.ndarray], positions: np.ndarray) -> None:
        """Leaves `proposals` of each pair's proposals, and of the teacher's numbers for them."""
        chosen = choose_proposals(self.seed, positions, rows["proposals"].shape[1], self.proposals or 0)
        at = np.arange(len(positions))[:, None]
        rows["proposals"] = rows["proposals"][at, chosen]
        for key in [key for key in targets if TARGETS[key.split("/")[0]].per_proposal]:
            targets[key] = targets[key][at, chosen]

    def _gather(
        self, source: np.ndarray, pair: np.ndarray, fresh: bool
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Rows of the pairs, in their order, from the chunks that hold them."""
        sizes = np.array([cache.chunk for cache in self.caches])[source]
        number, inside = pair // sizes, pair % sizes
        rows: dict[str, np.ndarray] = {}
        targets: dict[str, np.ndarray] = {}
        refs, tests = [np.empty(0, np.uint8)] * len(pair), [np.empty(0, np.uint8)] * len(pair)
        for one, chunk_number in sorted(set(zip(source.tolist(), number.tolist(), strict=True))):
            chunk = self._chunk(one, chunk_number)
            here = np.flatnonzero((source == one) & (number == chunk_number))
            belonging = {key: held for key, held in chunk.targets.items() if not fresh or key.split("/")[0] in self.fresh_targets}
            for found, held in ((rows, chunk.rows), (targets, belonging)):
                for name, array in held.items():
                    if name not in found:
                        found[name] = np.empty((len(pair), *array.shape[1:]), array.dtype)
                    found[name][here] = array[inside[here]]
            for at in here:
                refs[at], tests[at] = chunk.ref[inside[at]], chunk.test[inside[at]]
        return rows, targets, refs, tests

    def _chunk(self, source: int, number: int) -> _Chunk:
        key = (source, number)
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        cache = self.caches[source]
        start, stop = number * cache.chunk, min((number + 1) * cache.chunk, cache.count)
        ref, test = cache.read_crops(start, stop)
        targets = {f"{name}/{array}": value for name, unit in self.units[source].items() for array, value in unit.read(start, stop).items()}
        self._chunks[key] = chunk = _Chunk(cache.pairs.read(start, stop, ROWS), targets, ref, test)
        while len(self._chunks) > self._keep:
            self._chunks.popitem(last=False)
        return chunk
