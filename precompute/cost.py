"""What a cache will cost before the work starts, and what it saves after it."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.errors import RequestError
from configs.schema import Config
from precompute.builder import Measured
from precompute.producer import Producer
from precompute.teachers import TargetPlan

# Pairs that are really cut and encoded for the estimate.
SAMPLE = 16
# What the estimate may be short by: crops of other sequences encode to other sizes.
MARGIN = 1.05


def estimate(producer: Producer, count: int) -> float:
    """Mean bytes of the two encoded crops of a pair, from the first pairs of the set."""
    _, crops = producer.cut(0, min(SAMPLE, count))
    return sum(len(crop.ref) + len(crop.test) for crop in crops) / len(crops)


def describe_and_check(
    folder: Path, crop_bytes: float, crop_pairs: int, targets: list[tuple[TargetPlan, int]], row_bytes: int, remedy: str
) -> str:
    """One line with bytes a pair of what is missing, the total still to be written and the free space.

    crop_pairs: pairs whose crops are missing; targets: each with the number of pairs that lack it; row_bytes: of the pair arrays.

    Raises:
        RequestError: the disk cannot hold it; the message ends with `remedy`.
    """
    # what a compressed target takes is known once it is written: the room it may need is all of it
    items = [f"crops {crop_bytes + row_bytes:,.0f}"] if crop_pairs else []
    items += [f"{plan.name} {_bound(plan)}{plan.pair_bytes:,}" for plan, pairs in targets if pairs]
    less = next((bound for plan, pairs in targets if pairs and (bound := _bound(plan))), "")
    total = MARGIN * (crop_pairs * (crop_bytes + row_bytes) + sum(pairs * plan.pair_bytes for plan, pairs in targets))
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if total > free:
        raise RequestError(
            f"disk: expected room for {size(total)} below {folder}, found {size(free)} free; {remedy}, give CACHE_DIR another disk,"
            " or free some space"
        )
    return f"bytes a pair: {' + '.join(items)}; still to write {less}{size(total)}, free {size(free)}"


def _bound(plan: TargetPlan) -> str:
    return "<= " if plan.feature_bits is not None else ""


def break_even(config: Config, measured: Measured) -> str | None:
    """How many student runs the cache needs to have paid for itself, from the measured times; None if no teacher ran.

    A run with an online teacher pays the teacher's forward pass for every pair of every epoch; a cached one pays none.
    """
    if not measured.teacher_pairs:
        return None
    teacher = measured.teacher_seconds / measured.teacher_pairs
    seen = config.train.batch * config.train.batches * sum(phase.epochs for phase in config.phases_or_one())
    runs = measured.seconds / (seen * teacher)
    return (
        f"break-even: this took {measured.seconds:,.1f} s ({1e3 * teacher:,.1f} ms a pair of it teacher); one run of {config.setting} sees"
        f" {seen:,} pairs, {seen * teacher:,.1f} s of online teacher: the cache has paid for itself after {runs:.2g} runs"
    )


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
