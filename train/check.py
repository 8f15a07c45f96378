"""Whether a cache holds what the teacher at hand says, and what another decoder than the cache's changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cache import Cache
from configs import Config, PairsConfig, RequestError, RunError
from kdlosses import LiveTeacher, Objective
from models import TeacherSpec
from pairs.batch import Boxes
from pairs.decode import DecoderOptions, decoder_name, make_decoder
from pairs.decode.decoder import Images, Kind
from pairs.replay import boxes_of, crops_of
from pairs.stored import ROWS

# Relative error (of norms, over all checked pairs) of a cached array against the live teacher: float16 storage and another
# device's rounding stay far below the first, another JPEG decoder below the second; other weights are near 1.
SAME_DECODER, OTHER_DECODER = 0.02, 0.1
LOW_PRECISION = 0.05
KINDS: dict[str, Kind] = {"opencv": "torch", "dali-cpu": "dali", "dali-gpu": "dali"}
"""Decoder -> what it is asked for by."""


def recorded(cache: Cache, rows: Sequence[int], pairs: PairsConfig, kind: Kind, device: torch.device) -> tuple[Images, Boxes]:
    """Some pairs of a cache with their recorded photometry, by a decoder of `kind`: images (P, 3, S, S) and boxes of P rows."""
    crops = [cache.read_crops(row, row + 1) for row in rows]
    read = [cache.pairs.read(row, row + 1, ROWS) for row in rows]
    arrays = {name: np.concatenate([row[name] for row in read]) for name in ROWS}
    decoder = make_decoder(kind, DecoderOptions(len(rows), (pairs.ref.size, pairs.test.size), device))
    try:
        encoded = crops_of(arrays, [ref for (ref,), _ in crops], [test for _, (test,) in crops])
        return decoder.start(iter([(encoded, boxes_of(arrays, pairs, device))])).batch()
    finally:
        decoder.close()


def some_rows(cache: Cache, count: int) -> list[int]:
    """`count` pairs spread evenly over a cache."""
    return sorted({int(row) for row in np.linspace(0, cache.count - 1, min(count, cache.count))})


def check_cache(
    cache: Cache, spec: TeacherSpec, teacher: LiveTeacher, needed: Mapping[str, Objective], config: Config, device: torch.device
) -> str:
    """Recomputes train.check_pairs pairs with the live teacher and compares them with the cached targets.

    needed: cached target -> an objective that reads it. Rounded features are compared with rounded ones: only what lies at the edge of
    a step may differ. Returns a line that states the largest relative error and the tolerance.

    Raises:
        RunError: an array is off by more than the tolerance; the cache was not made by this teacher from these pairs.
    """
    rows = some_rows(cache, config.train.check_pairs)
    other = other_decoder(cache, config.train.feed, device)
    tolerance = OTHER_DECODER if other else SAME_DECODER if spec.dtype == "float32" else LOW_PRECISION
    (ref, test), boxes = recorded(cache, rows, config.pairs, config.train.feed, device)
    errors: dict[str, float] = {}
    for name, objective in needed.items():
        unit = cache.target(spec.name, name)
        assert unit is not None
        read = [unit.read(row, row + 1) for row in rows]
        for key, live in teacher.targets(ref, test, boxes, (name,), objective.projection).items():
            stored = torch.from_numpy(np.concatenate([arrays[key.split("/", 1)[1]] for arrays in read]))
            errors[key] = relative_error(stored.to(live), live)
            if not errors[key] <= tolerance:
                raise RunError(
                    f"{cache.path}: {key} of teacher {spec.name}: expected the live teacher's numbers within {tolerance:g} (relative),"
                    f" found {errors[key]:.3g} over {len(rows)} pairs; check the cache with `make verify CACHE={cache.path}`,"
                    " and that teacher.weights is the file it was made with"
                )
    worst = max(errors, key=errors.__getitem__)
    checked = f"check: {len(rows)} pairs of {cache.path.name} recomputed with the live teacher"
    return f"{checked}, largest relative error {errors[worst]:.2g} ({worst}), tolerance {tolerance:g}"


def relative_error(value: Tensor, right: Tensor) -> float:
    """Norm of the difference over the norm of what is right."""
    return float((value.double() - right.double()).norm() / right.double().norm().clamp_min(1e-12))


def other_decoder(cache: Cache, kind: Kind, device: torch.device) -> str | None:
    """The decoder that the cache's targets were computed with, as its history records it, if it is not the one of this run."""
    names = [record["decoder"] for record in cache.history() if record.get("decoder")]
    return names[-1] if names and names[-1] != decoder_name(kind, device) else None


def decoder_note(cache: Cache, config: Config, device: torch.device) -> str | None:
    """A line where this run decodes crops otherwise than the cache's teacher did: the difference, measured if both are here."""
    there = other_decoder(cache, config.train.feed, device)
    if there is None:
        return None
    here, place = decoder_name(config.train.feed, device), device if there == "dali-gpu" else torch.device("cpu")
    line = f"decoder: the cache's teacher saw crops decoded by {there}, this run decodes with {here}; goes on"
    kind = KINDS.get(there)
    try:
        runs = kind is not None and decoder_name(kind, place) == there
    except RequestError:
        runs = False
    if kind is None or not runs:
        return f"{line} (no {there} here to measure the difference with)"
    rows = some_rows(cache, 8)
    (first, _), (second, _) = (recorded(cache, rows, config.pairs, *way) for way in ((config.train.feed, device), (kind, place)))
    # back to grey levels of a stored image: 1/255 of the range before normalisation, whose mean deviation is 0.226
    levels = torch.cat([(a.cpu() - b.cpu()).abs().flatten() for a, b in zip(first, second, strict=True)]) * 0.226 * 255
    return (
        f"{line}, mean pixel difference {float(levels.mean()):.2f} of 255 levels over {len(rows)} pairs (largest {float(levels.max()):.0f})"
    )
