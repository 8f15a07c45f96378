"""From the caches to batches on the device: chunks read ahead by a thread, crops decoded ahead, targets beside them.

Letters: B pairs of a batch (on this process), N proposals, n pairs. Boxes (x, y, w, h), pixels of the crop that they lie in.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache import Cache
from configs.errors import RunError
from configs.schema import Augmentation, PairsConfig
from kdlosses import TARGETS
from pairs import photometry
from pairs.batch import Batch
from pairs.boxes import flip_boxes
from pairs.decode import BrokenCrop, Crops, DecoderOptions, make_decoder
from pairs.decode.decoder import Images, Kind
from pairs.replay import boxes_of, crops_of, pinned, to_device
from pairs.stored import BOXES, ROWS
from train.data.augment import ALL, choose_proposals, draw_fresh, fresh_proposals, is_fresh
from train.data.order import Positions
from train.data.pace import Pace
from train.data.waits import Waits

AHEAD = 4
"""Steps read ahead of the decoder."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class FeedSpec:
    """What a feed gives."""

    caches: tuple[Cache, ...]
    """complete pair sets of one geometry"""
    order: Positions
    """which pair comes when"""
    pairs: PairsConfig
    """of the caches: sizes of the crops, ranges of fresh photometry, proposals"""
    batch: int
    """B"""
    device: torch.device
    kind: Kind = "auto"
    """which decoder, see `pairs.decode`"""
    threads: int = 1
    """of the decoder"""
    rank: int = 0
    """of this process among `world`; they share out the pairs of a step as the order says"""
    world: int = 1
    teacher: str = ""
    """whose targets"""
    targets: tuple[str, ...] = ()
    """read with every batch that replays the recorded images"""
    augment: Literal["replay", "fresh", "none"] = "replay"
    """replay: the recorded photometry; fresh: new at every position; none: plain crops"""
    mix: float = 0.0
    """share of fresh steps among replayed ones"""
    fresh: Collection[Augmentation] = ALL
    """what a fresh step draws anew; the rest is replayed"""
    fresh_targets: Collection[str] = ()
    """of `targets`: those that belong to the pairs of a fresh step all the same"""
    proposals: int | None = None
    """N of a step, drawn anew at every position from those of the cache; None: all of them, as recorded"""
    seed: int = 0
    """of what is drawn"""

    @property
    def steps(self) -> int | None:
        """Steps until the order ends (the last batch may be shorter, even empty); None: it never does."""
        return None if self.order.total is None else -(-self.order.total // (self.batch * self.world))

    def is_fresh(self, step: int) -> bool:
        """Whether the step's images are new."""
        return self.augment == "fresh" or is_fresh(self.seed, step, self.mix)


class _Chunk(NamedTuple):
    rows: Arrays
    targets: Arrays
    ref: list[np.ndarray]
    test: list[np.ndarray]


class _Step(NamedTuple):
    """What goes through the decoder beside the crops of B pairs, of which the first `valid` count."""

    boxes: dict[str, Tensor]
    targets: dict[str, Tensor]
    fresh: bool
    valid: int
    source: np.ndarray
    pair: np.ndarray


class Feed:
    """Batches of consecutive steps, from any step on; what follows is read and decoded while the caller works."""

    def __init__(self, spec: FeedSpec) -> None:
        self.spec = spec
        self._waits = Waits(spec.device)
        self._pace = Pace(spec.device)
        self._copies: torch.cuda.Stream | None = None
        images = spec.pairs.ref.size, spec.pairs.test.size
        blurs = spec.augment == "fresh" or spec.mix > 0
        self._decoder = make_decoder(spec.kind, DecoderOptions(spec.batch, images, spec.device, spec.threads, fresh=blurs))
        self._reader = ThreadPoolExecutor(1, "feed")
        self._chunks: OrderedDict[tuple[int, int], _Chunk] = OrderedDict()
        # every cache has two windows under way where one ends and the next begins
        self._keep = (2 * spec.order.window + 8) * len(spec.caches)

    def batches(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        """Batches of the steps start ... stop - 1, or to the end of the order. A feed has one such stream: another ends the one before.

        RunError: a part that is not published, a crop that is no JPEG of its size (by cache and pair); and whatever reading raises.
        """
        stream = self._decoder.start(self._read_ahead(start, stop))
        while True:
            self._pace.step()
            with self._waits:
                try:
                    images, step = stream.batch()
                except StopIteration:
                    return
                except BrokenCrop as error:
                    raise self._named(error) from error
                batch = self._on_device(images, step)
            yield batch

    @property
    def waited_s(self) -> float:
        """Seconds until batches were there, of all so far, see `Waits`."""
        return self._waits.seconds

    def close(self) -> None:
        """Ends the threads."""
        self._decoder.close()
        self._reader.shutdown(cancel_futures=True)

    def _named(self, error: BrokenCrop) -> RunError:
        """The decoder's error by cache and pair."""
        step: _Step = error.payload
        path = self.spec.caches[step.source[error.row]].path
        return RunError(error.named(f"{path}, pair {step.pair[error.row]}", f"look for the damage with `make verify CACHE={path}`"))

    def _on_device(self, images: Images, step: _Step) -> Batch:
        few, device = slice(step.valid), self.spec.device
        with self._beside():
            boxes = boxes_of({name: step.boxes[name][few] for name in BOXES}, self.spec.pairs, device)
            stored = {key: to_device(value[few], device) for key, value in step.targets.items()}
        if self._copies is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(self._copies)
            for tensor in (boxes.ref_box, boxes.test_box, boxes.proposals, *stored.values()):
                tensor.record_stream(current)
        # in the stored type over the bus
        targets = {key: value.float() for key, value in stored.items()}
        return Batch(images[0][few], images[1][few], boxes, targets, step.fresh, step.source[few], step.pair[few])

    def _beside(self) -> AbstractContextManager[Any]:
        """On a GPU a stream for copies alone, so that they do not queue behind the steps."""
        if self.spec.device.type != "cuda":
            return nullcontext()
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.spec.device)
        return torch.cuda.stream(self._copies)

    def _read_ahead(self, start: int, stop: int | None) -> Iterator[tuple[Crops, _Step]]:
        """The steps in their order, AHEAD of them read or being read by the thread."""
        ends = [end for end in (stop, self.spec.steps) if end is not None]
        steps = iter(range(start, min(ends))) if ends else count(start)
        ahead: deque[Future[tuple[Crops, _Step]]] = deque(self._reader.submit(self._read, step) for step in islice(steps, AHEAD))
        while ahead:
            first = ahead.popleft()
            ahead.extend(self._reader.submit(self._read, step) for step in islice(steps, 1))
            yield first.result()

    def _read(self, step: int) -> tuple[Crops, _Step]:
        """One step's crops, rows and targets, augmented as the spec says."""
        spec, whole = self.spec, self.spec.batch * self.spec.world
        first = step * whole
        mine = spec.order.share(first, whole, spec.rank, spec.world)
        source, pair = (numbers[mine] for numbers in spec.order.take(first, whole))
        total, fresh = spec.order.total, spec.is_fresh(step)
        rows, targets, ref, test = self._gather(source, pair, spec.fresh_targets if fresh else spec.targets)
        look = photometry.recorded(rows)
        if fresh:
            look = look.replaced(draw_fresh(spec.seed, first, whole, spec.pairs).take(mine), spec.fresh)
            for name in BOXES:
                rows[name] = flip_boxes(rows[name], look.flip, (spec.pairs.ref if name == "ref_box" else spec.pairs.test).size)
        elif spec.augment == "none":
            look = photometry.none(len(mine))
        if fresh and "proposals" in spec.fresh:
            section = spec.pairs.model_copy(update={"proposals": spec.proposals or spec.pairs.proposals})
            rows["proposals"] = fresh_proposals(rows["test_box"], spec.seed, first + mine, section)
        elif spec.proposals is not None:
            self._choose(rows, targets, first + mine, spec.proposals)
        valid = spec.batch if total is None else int((first + mine < total).sum())
        boxes = {name: pinned(rows[name], spec.device) for name in BOXES}
        numbers = {key: pinned(value, spec.device) for key, value in targets.items()}
        return crops_of(rows, ref, test, look), _Step(boxes, numbers, fresh, valid, source, pair)

    def _choose(self, rows: Arrays, targets: Arrays, positions: np.ndarray, number: int) -> None:
        """Leaves `number` of each pair's proposals, and of the teacher's numbers for them."""
        chosen = choose_proposals(self.spec.seed, positions, rows["proposals"].shape[1], number)
        at = np.arange(len(positions))[:, None]
        rows["proposals"] = rows["proposals"][at, chosen]
        for key in [key for key in targets if TARGETS[key.split("/")[0]].per_proposal]:
            targets[key] = targets[key][at, chosen]

    def _gather(self, source: np.ndarray, pair: np.ndarray, names: Collection[str]) -> _Chunk:
        """Rows, targets of these names and crops of the pairs (n,) of caches (n,), in their order, from the chunks that hold them."""
        sizes = np.array([cache.chunk for cache in self.spec.caches])[source]
        number, inside = pair // sizes, pair % sizes
        nothing = np.empty(0, np.uint8)
        gathered = _Chunk({}, {}, [nothing] * len(pair), [nothing] * len(pair))
        for key in sorted(set(zip(source.tolist(), number.tolist(), strict=True))):
            chunk = self._chunk(*key)
            here = np.flatnonzero((source == key[0]) & (number == key[1]))
            belonging = {name: array for name, array in chunk.targets.items() if name.split("/")[0] in names}
            for into, arrays in ((gathered.rows, chunk.rows), (gathered.targets, belonging)):
                for name, array in arrays.items():
                    if name not in into:
                        into[name] = np.empty((len(pair), *array.shape[1:]), array.dtype)
                    into[name][here] = array[inside[here]]
            for at in here:
                gathered.ref[at], gathered.test[at] = chunk.ref[inside[at]], chunk.test[inside[at]]
        return gathered

    def _chunk(self, source: int, number: int) -> _Chunk:
        """One chunk of one cache, from memory where it was read lately."""
        key = (source, number)
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        cache = self.spec.caches[source]
        start, stop = number * cache.chunk, min((number + 1) * cache.chunk, cache.count)
        units = {name: unit for name in self.spec.targets if (unit := cache.target(self.spec.teacher, name)) is not None}
        targets = {f"{name}/{array}": value for name, unit in units.items() for array, value in unit.read(start, stop).items()}
        self._chunks[key] = chunk = _Chunk(cache.pairs.read(start, stop, ROWS), targets, *cache.read_crops(start, stop))
        while len(self._chunks) > self._keep:
            self._chunks.popitem(last=False)
        return chunk
