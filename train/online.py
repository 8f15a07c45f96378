"""The live teacher: targets of a batch that no cache holds, and the check that a cache holds what this teacher says.

Letters: B pairs, S side of the crops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache import Cache
from configs import Config, RequestError, RunError
from kdlosses import Objective, Pairs, compute, layers_of
from models import Teacher
from models.preprocess import CropBatch, decoder_name, make_decoder
from train.sources import TeacherSource

# Relative error (of norms, over all checked pairs) of a cached array against the live teacher: float16 storage and another
# device's rounding stay far below the first, another JPEG decoder below the second; other weights are near 1.
SAME_DECODER, OTHER_DECODER = 0.02, 0.1
LOW_PRECISION = 0.05


class OnlineTeacher:
    """Computes targets with the code that precompute uses, rounded features included: a run sees the same numbers from both."""

    def __init__(self, teacher: Teacher, channels_last: bool = False, feature_bits: int | None = None) -> None:
        self.teacher = teacher.to(memory_format=torch.channels_last) if channels_last else teacher
        self.feature_bits = feature_bits

    def targets(self, ref: Tensor, test: Tensor, pairs: Pairs, names: Sequence[str], objective: Objective) -> dict[str, Tensor]:
        """ref, test (B, 3, S, S) normalised -> "target/array" -> float32, leading dim B, of the named targets."""
        if not names:
            return {}
        outputs = self.teacher(ref, test, pairs.ref_box, pairs.proposals, layers_of(names))
        return compute(names, outputs, pairs, objective.projection, self.feature_bits)


@dataclass(frozen=True)
class Recorded:
    """Some pairs of a cache as the network sees them: P pairs."""

    ref: Tensor
    test: Tensor
    pairs: Pairs
    rows: list[int]


def recorded(cache: Cache, rows: Sequence[int], kind: str, device: torch.device, crop_size: int) -> Recorded:
    """Decodes some pairs of a cache with their recorded photometry, by a decoder of `kind` (auto, dali, torch)."""
    crops = [cache.read_crops(row, row + 1) for row in rows]
    names = ("ref_box", "test_box", "proposals", "brightness", "grey")
    read = [cache.pairs.read(row, row + 1, names) for row in rows]
    arrays = {name: np.concatenate([one[name] for one in read]) for name in names}
    count = 2 * len(rows)
    batch = CropBatch(
        jpegs=[one[image][0] for image in (0, 1) for one in crops],
        brightness=np.ascontiguousarray(arrays["brightness"].T).reshape(-1),
        grey=np.tile(arrays["grey"].astype(bool), 2),
        flip=np.zeros(count, bool),
        blur=np.zeros(count, np.float32),
    )

    def source(index: int) -> CropBatch:
        if index:
            raise IndexError(index)
        return batch

    decoder = make_decoder(kind, source, images=count, size=crop_size, device=device, threads=1)  # type: ignore[arg-type]
    try:
        images = decoder.batch(0).clone()
    finally:
        decoder.close()
    ref_box, test_box, proposals = (torch.from_numpy(arrays[name]).to(device) for name in ("ref_box", "test_box", "proposals"))
    return Recorded(images[: len(rows)], images[len(rows) :], Pairs(ref_box, test_box, proposals, crop_size), list(rows))


def some_rows(cache: Cache, count: int) -> list[int]:
    """`count` pairs spread evenly over a cache."""
    return sorted({int(row) for row in np.linspace(0, cache.count - 1, min(count, cache.count))})


def check_cache(
    cache: Cache, source: TeacherSource, teacher: OnlineTeacher, needed: Mapping[str, Objective], config: Config, device: torch.device
) -> str:
    """Recomputes train.check_pairs pairs with the live teacher and compares them with the cached targets.

    needed: cached target -> an objective that reads it. Rounded features are compared with rounded ones: only what lies at the edge of
    a step may differ. Returns a line that states the largest relative error and the tolerance.

    Raises:
        RunError: an array is off by more than the tolerance; the cache was not made by this teacher from these pairs.
    """
    rows = some_rows(cache, config.train.check_pairs)
    other = other_decoder(cache, config, device)
    tolerance = OTHER_DECODER if other else SAME_DECODER if source.dtype == "float32" else LOW_PRECISION
    batch = recorded(cache, rows, config.train.feed, device, config.pairs.crop_size)
    worst, where = 0.0, ""
    for name, objective in needed.items():
        unit = cache.target(source.name, name)
        assert unit is not None
        live = teacher.targets(batch.ref, batch.test, batch.pairs, (name,), objective)
        read = [unit.read(row, row + 1) for row in rows]
        for key, value in live.items():
            stored = torch.from_numpy(np.concatenate([one[key.split("/", 1)[1]] for one in read])).to(value)
            error = relative_error(stored, value)
            if not error <= tolerance:
                raise RunError(
                    f"{cache.path}: {key} of teacher {source.name}: expected the live teacher's numbers within {tolerance:g} (relative),"
                    f" found {error:.3g} over {len(rows)} pairs; check the cache with `make verify CACHE={cache.path}`,"
                    " and that teacher.weights is the file it was made with"
                )
            if error >= worst:
                worst, where = error, key
    checked = f"check: {len(rows)} pairs of {cache.path.name} recomputed with the live teacher"
    return f"{checked}, largest relative error {worst:.2g} ({where}), tolerance {tolerance:g}"


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-12))


def built_with(cache: Cache) -> str | None:
    """The decoder that the cache's targets were computed with, as its history records it."""
    names = [record["decoder"] for record in cache.history() if record.get("decoder")]
    return names[-1] if names else None


def other_decoder(cache: Cache, config: Config, device: torch.device) -> str | None:
    """The decoder that made the cache's targets, if it is not the one of this run."""
    there = built_with(cache)
    return there if there is not None and there != decoder_name(config.train.feed, device) else None


def decoder_note(cache: Cache, config: Config, device: torch.device) -> str | None:
    """A line where this run decodes crops otherwise than the cache's teacher did: the difference, measured if both are here."""
    there = other_decoder(cache, config, device)
    if there is None:
        return None
    here = decoder_name(config.train.feed, device)
    runnable: dict[str, Any] = {"opencv": "torch", "dali-cpu": "dali", "dali-gpu": "dali"}
    place = device if there == "dali-gpu" else torch.device("cpu")
    line = f"decoder: the cache's teacher saw crops decoded by {there}, this run decodes with {here}; goes on"
    try:
        if decoder_name(runnable[there], place) != there:
            return f"{line} (no {there} here to measure the difference with)"
    except (RequestError, KeyError):
        return f"{line} (no {there} here to measure the difference with)"
    rows = some_rows(cache, 8)
    first = recorded(cache, rows, config.train.feed, device, config.pairs.crop_size)
    second = recorded(cache, rows, runnable[there], place, config.pairs.crop_size)
    # back to grey levels of a stored image: 1/255 of the range before normalisation, whose mean deviation is 0.226
    levels = torch.cat([(a.cpu() - b.cpu()).abs() for a, b in ((first.ref, second.ref), (first.test, second.test))]) * 0.226 * 255
    return (
        f"{line}, mean pixel difference {float(levels.mean()):.2f} of 255 levels over {len(rows)} pairs (largest {float(levels.max()):.0f})"
    )
