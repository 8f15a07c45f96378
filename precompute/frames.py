"""Whether a data set that lies on this machine is still the one that a cache was cut from: pairs are cut again and compared.

Letters: n pairs. Image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from cache import Cache
from cache.address import Location
from cache.backends.base import MADE
from configs.catalog import dataset_entry
from configs.errors import RequestError
from configs.machine import processors
from configs.progress import ProgressBar
from configs.schema import PairsConfig
from precompute.crops import PairCrops, pair_or_fault
from precompute.datasets import Dataset, open_entry
from precompute.made import crops_made
from precompute.sampling import draw

ROUNDING = 1.0
"""Grey levels, mean over a crop, that another version of OpenCV may change it by; other frames change it by more."""


class Again(NamedTuple):
    """What cutting one pair again gave."""

    pair: int
    kind: Literal["same", "rounded", "other", "gone"]
    """rounded: but for what another version of OpenCV rounds otherwise; gone: a frame is not there any more"""
    what: str = ""
    """which frame, and what is wrong with it"""


def at_hand(name: str, split: str) -> Dataset | None:
    """The data set, None where this machine does not have it: no entry in the catalog, no folder, or one that cannot be opened."""
    try:
        return open_entry(name, dataset_entry(name), split)
    except RequestError:
        return None


def content_at_hand(name: str, split: str) -> str | None:
    """SHA-256 of the annotation of a data set that lies here (a cache's content_sha256), None where it does not."""
    dataset = at_hand(name, split)
    return None if dataset is None else dataset.content_hash


def sample_line(cache: Cache, number: int) -> str | None:
    """Cuts `number` pairs, spread evenly over the finished parts, again; a line on what was found, None where the data set is not here.

    RequestError: the frames are others.
    """
    dataset = _of(cache)
    if dataset is None:
        return None
    return require_same(cache, dataset, number)


def require_same(cache: Cache, dataset: Dataset, number: int, but: Collection[int] = ()) -> str:
    """As `sample_line`, of an open data set whose annotation is the cache's; `but`: parts that are left out."""
    again = cut_again(cache, dataset, spread(cache, number, but))
    kinds = Counter(pair.kind for pair in again)
    if kinds["other"]:
        first = next(pair for pair in again if pair.kind == "other")
        raise RequestError(
            f"{cache.path}: expected the frames that it was cut from, found others in {dataset.root}: of {len(again)} pairs cut again"
            f" {kinds['other']} differ (pair {first.pair}: {first.what}); restore the frames, or remove {cache.path} and make it again"
            " (recut_pairs=0 leaves this check out)"
        )
    gone = f", the frames of {kinds['gone']} more are gone" if kinds["gone"] else ""
    rounded = f", {kinds['rounded']} of them but for the rounding of another OpenCV" if kinds["rounded"] else ""
    compared = len(again) - kinds["gone"]
    return f"frames: {compared} pairs of {cache.path.name} cut again from {dataset.root} are the cached ones{rounded}{gone}"


def faults(cache: Cache) -> list[tuple[int, str]]:
    """(pair, what is wrong) of every pair of the finished parts that is another when it is cut again, or whose frames are gone.

    RequestError: the data set is not on this machine, or its annotation is another.
    """
    dataset = dataset_of(cache.path, cache.identity)
    found: list[tuple[int, str]] = []
    with ProgressBar("frames", cache.count, "pair") as progress:
        for part in sorted(cache.backend.published(cache.pairs.path)):
            start, stop = cache.bounds(part)
            for first in range(start, stop, cache.chunk):
                rows = range(first, min(first + cache.chunk, stop))
                found += [(again.pair, again.what) for again in cut_again(cache, dataset, rows) if again.kind in ("other", "gone")]
                progress.add(len(rows))
    return found


def dataset_of(path: Location, identity: Mapping[str, Any]) -> Dataset:
    """The data set that the cache at `path` was made from. RequestError: it is not on this machine, or its annotation is another."""
    name, split = str(identity.get("dataset")), str(identity.get("split"))
    dataset = open_entry(name, dataset_entry(name), split)
    if dataset.content_hash != identity.get("content_sha256"):
        raise RequestError(
            f"{path}: expected the annotation that it was made from, found another in {dataset.root}; make a new one: `make cache`"
        )
    return dataset


def _of(cache: Cache) -> Dataset | None:
    """The data set of a cache, where it lies here with the same annotation."""
    dataset = at_hand(str(cache.identity.get("dataset")), str(cache.identity.get("split")))
    return dataset if dataset is not None and dataset.content_hash == cache.identity.get("content_sha256") else None


def spread(cache: Cache, number: int, but: Collection[int] = ()) -> list[int]:
    """`number` pairs spread evenly over the finished parts (not those of `but`), ascending; all where there are fewer."""
    bounds = [cache.bounds(part) for part in cache.pairs.parts_there() if part not in but]
    ends = np.cumsum([stop - start for start, stop in bounds])
    if not len(ends) or number < 1:
        return []
    places = np.unique(np.linspace(0, ends[-1] - 1, min(number, int(ends[-1]))).astype(np.int64))
    part = np.searchsorted(ends, places, side="right")
    return [int(bounds[p][1] - (ends[p] - place)) for p, place in zip(part, places, strict=True)]


def cut_again(cache: Cache, dataset: Dataset, rows: Sequence[int]) -> list[Again]:
    """These pairs of finished parts from the frames as they are now, compared with the stored ones."""
    pairs, now = pairs_of(cache.identity), crops_made()
    made = {part: (cache.pairs.entry(part) or {}).get(MADE) or {} for part in sorted({row // cache.part for row in rows})}
    allowed = {part: 0.0 if told == now else ROUNDING for part, told in made.items()}
    with ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(lambda row: _again(cache, dataset, row, pairs, allowed[row // cache.part]), rows))


def pairs_of(identity: Mapping[str, Any]) -> PairsConfig:
    """The section of the configuration that a pair set was made with; of its counts, `count` is the cache's."""
    return PairsConfig.model_validate({name: value for name, value in identity.items() if name in PairsConfig.model_fields})


def _again(cache: Cache, dataset: Dataset, row: int, pairs: PairsConfig, allowed: float) -> Again:
    """allowed: grey levels that a crop may be away and still be of the same frames."""
    stored = cache.pairs.read(row, row + 1, ("sequence", "frame", "attempt"))
    drawn = draw(dataset, pairs, row, 1, dataset.split == "train", int(stored["attempt"][0]))
    if drawn.sequence[0] != stored["sequence"][0] or (drawn.frame[0] != stored["frame"][0]).any():
        return Again(row, "other", "drawn otherwise than it is stored")
    files = [dataset.frame_path(int(drawn.sequence[0]), frame) for frame in drawn.frame[0].tolist()]
    made = pair_or_fault(dataset.source, drawn, 0, pairs)
    if not isinstance(made, PairCrops):
        # a frame of a video lies, as a path, below its file
        there = all(file.exists() or file.parent.is_file() for file in files)
        return Again(row, "other" if there else "gone", str(made))
    (ref,), (test,) = cache.read_crops(row, row + 1)
    changes = [_change(*images) for images in ((ref, made.ref), (test, made.test))]
    for file, change in zip(files, changes, strict=True):
        if change > allowed:
            return Again(row, "other", f"{file} gives another crop, {change:.1f} grey levels away on average")
    return Again(row, "rounded" if any(changes) else "same")


def _change(stored: np.ndarray, encoded: bytes) -> float:
    """Mean absolute difference of two encoded crops, grey levels; 0 for equal bytes."""
    if stored.tobytes() == encoded:
        return 0.0
    before, now = (cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for content in (stored, encoded))
    if before is None or now is None or before.shape != now.shape:
        return float("inf")
    # other bytes may decode to the very same pixels
    return max(float(cv2.absdiff(before, now).mean()), np.finfo(float).tiny)
