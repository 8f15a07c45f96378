"""How wrong cached targets would be for fresh images: `python -m bench staleness CACHE WEIGHTS`. Prints a Markdown table.

For each fresh augmentation alone, the teacher judges the pairs as that augmentation makes them, and what the cache holds for the same
pairs is compared with its answer. The row `replay` is the floor: the recorded pairs, so float16 and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

import models
from cache import Cache
from configs.errors import RequestError, nearest
from configs.schema import PairsConfig
from kdlosses import TARGETS, LiveTeacher
from train.check import relative_error
from train.data.augment import ALL
from train.data.feed import Feed, FeedSpec
from train.data.order import InOrder

IOU_UNITS = "IoU units"
"""Mean absolute difference of the predicted IoU, in [0, 1]."""


def staleness(cache: Cache, group: str, teacher: LiveTeacher, names: Sequence[str], pairs: int) -> dict[str, dict[str, float]]:
    """Augmentation, or "replay" -> target (and IOU_UNITS) -> error of what the cache holds, over the first `pairs` pairs.

    Of a target: the largest relative error (norm of the difference over the norm of what is right) of its maps. Only the pairs that an
    augmentation touches count: not every pair is mirrored, blurred or grey.
    """
    errors = {}
    for name in ("replay", *ALL):
        replay, fresh = (_feed(cache, group, names, pairs, drawn) for drawn in ((), () if name == "replay" else (name,)))
        try:
            errors[name] = _errors(replay, fresh, teacher, names)
        finally:
            replay.close()
            fresh.close()
    return errors


def _feed(cache: Cache, group: str, names: Sequence[str], pairs: int, fresh: Sequence[Any]) -> Feed:
    """The first pairs in order, with what the cache holds of each target whether it belongs to them or not."""
    recorded = PairsConfig.model_validate({key: cache.identity[key] for key in PairsConfig.model_fields if key in cache.identity})
    spec = FeedSpec(
        (cache,),
        InOrder([cache.count], pairs),
        # 5 in 100 would leave too few to measure
        recorded.model_copy(update={"grey_probability": 1.0}),
        batch=8,
        device=torch.device("cpu"),
        kind="torch",
        teacher=group,
        targets=tuple(names),
        augment="fresh" if fresh else "replay",
        fresh=fresh,
        fresh_targets=names,
    )
    return Feed(spec)


def _errors(replay: Feed, fresh: Feed, teacher: LiveTeacher, names: Sequence[str]) -> dict[str, float]:
    stored: dict[str, list[torch.Tensor]] = {}
    right: dict[str, list[torch.Tensor]] = {}
    for before, batch in zip(replay.batches(0), fresh.batches(0), strict=True):
        changes = [(getattr(batch, name) != getattr(before, name)).flatten(1).any(1) for name in ("ref", "test")]
        changes.append((batch.boxes.proposals != before.boxes.proposals).flatten(1).any(1))
        rows = torch.stack(changes).any(0) | (fresh.spec.augment == "replay")
        for key, value in teacher.targets(batch.ref, batch.test, batch.boxes, names).items():
            right.setdefault(key, []).append(value[rows])
            stored.setdefault(key, []).append(batch.targets[key][rows])
    pairs = {key: (torch.cat(stored[key]), torch.cat(right[key])) for key in right}
    # scale and sum of the weights are single numbers that a map is put together with
    maps = {name: [key for key in pairs if key.startswith(f"{name}/") and not key.endswith(("/scale", "/weight_sum"))] for name in names}
    errors = {name: max(relative_error(*pairs[key]) for key in keys) for name, keys in maps.items()}
    if "iou" in names:
        cached, wanted = pairs["iou/iou"]
        errors[IOU_UNITS] = float((cached - wanted).abs().mean() / 2)
    return errors


def report(options: argparse.Namespace) -> None:
    """Prints the table. options: of the command line. RequestError: no such cache, teacher or number of pairs."""
    cache = Cache.open(options.cache)
    teachers = cache.teachers()
    group = options.teacher or next(iter(teachers), "")
    if group not in teachers:
        known = ", ".join(teachers) or "none"
        near = nearest(group, teachers)
        raise RequestError(f"--teacher: expected a teacher of {options.cache} ({known}), found '{group}'{near}; name one")
    tracker = models.build(teachers[group]["architecture"])
    models.load_weights(tracker, options.weights)
    names = [name for name, target in TARGETS.items() if (group, name) in cache.targets() and not target.projected]
    errors = staleness(cache, group, LiveTeacher(models.TeacherNetwork(tracker)), names, min(options.pairs, cache.count))
    columns = [*names, IOU_UNITS] if "iou" in names else names
    print("| fresh | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, found in errors.items():
        print(f"| {name} | " + " | ".join(f"{found[column]:.2g}" for column in columns) + " |")
