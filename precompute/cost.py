"""What a cache will cost before the work starts, and what it saves after it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cache import Cache, Unit
from configs.errors import RequestError
from configs.schema import Config
from configs.units import size_text
from precompute.crop_writer import CropWriter
from precompute.target_writer import Measured

# Pairs that are really cut and encoded for the estimate.
SAMPLE = 16
# What the estimate may be short by: crops of other sequences encode to other sizes.
MARGIN = 1.05


def estimate(cache: Cache, writer: CropWriter, targets: Mapping[str, Unit]) -> str:
    """One line with the bytes a pair of what is missing, the total still to be written and the free space.

    RequestError: the disk cannot hold it.
    """
    items: list[str] = []
    total, less = 0.0, ""
    if pairs := _lacking(cache, cache.pairs):
        _, crops = writer.cut(0, min(SAMPLE, cache.count))
        each = sum(len(crop.ref) + len(crop.test) for crop in crops) / len(crops) + cache.pairs.spec.pair_bytes
        items.append(f"crops {each:,.0f}")
        total += pairs * each
    for name, unit in targets.items():
        if pairs := _lacking(cache, unit):
            # what a compressed target takes is known once it is written: the room it may need is all of it
            bound = "<= " if any(array.compress for array in unit.arrays.values()) else ""
            items.append(f"{name} {bound}{unit.spec.pair_bytes:,}")
            total += pairs * unit.spec.pair_bytes
            less = less or bound
    free = free_bytes(cache.path.parent)
    if total * MARGIN > free:
        raise RequestError(
            f"disk: expected room for {size_text(total * MARGIN)} below {cache.path.parent}, found {size_text(free)} free;"
            " ask for fewer pairs (PAIRS=...), give CACHE_DIR another disk, or free some space"
        )
    return f"bytes a pair: {' + '.join(items)}; still to write {less}{size_text(total * MARGIN)}, free {size_text(free)}"


def _lacking(cache: Cache, unit: Unit) -> int:
    """Pairs that a unit lacks."""
    return sum(stop - start for start, stop in map(cache.bounds, unit.missing()))


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


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
