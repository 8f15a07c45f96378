"""What a cache will cost before the work starts, and what it saves after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cache import Cache, PairSetSpec, TargetSpec, Unit
from cache.address import Location
from configs.errors import RequestError, RunError
from configs.machine import free_bytes, require_place
from configs.schema import Config
from configs.units import size_text
from precompute.crop_writer import CropWriter

if TYPE_CHECKING:
    from precompute.target_writer import Measured

# Pairs that are really cut and encoded for the estimate.
SAMPLE = 16
# What the estimate may be short by: crops of other sequences encode to other sizes.
MARGIN = 1.05


@dataclass(frozen=True)
class Need:
    """What one unit of a cache lacks."""

    name: str
    pairs: int
    each: float
    """bytes a pair"""
    bound: str = ""
    """"<= " where that is the most it may take: what a compressed target takes is known once it is written"""


def crops_needed(cache: Cache | None, spec: PairSetSpec, writer: CropWriter) -> Need:
    """Of a pair set, from a sample that is really cut (which ends the writer); cache: None where there is none yet."""
    pairs = _lacking(cache, cache.pairs if cache is not None else None, spec.count)
    with closing(writer):
        crops = writer.cut(0, min(SAMPLE, spec.count))[1] if pairs else []
    stored = sum(len(crop.ref) + len(crop.test) for crop in crops) / max(1, len(crops))
    return Need("crops", pairs, stored + sum(array.row_bytes for array in spec.arrays))


def targets_needed(cache: Cache | None, count: int, teacher: str, specs: Iterable[TargetSpec]) -> list[Need]:
    """Of the targets of one teacher."""
    needs = []
    for spec in specs:
        unit = None
        with suppress(RunError):  # one whose description is damaged is written again
            unit = cache.target(teacher, spec.name) if cache is not None else None
        bound = "<= " if any(array.compress for array in spec.arrays) else ""
        needs.append(Need(spec.name, _lacking(cache, unit, count), spec.pair_bytes, bound))
    return needs


def total(needs: Iterable[Need]) -> float:
    """Bytes still to be written, with a margin."""
    return MARGIN * sum(need.pairs * need.each for need in needs)


def require_room(folder: Location, needs: Iterable[Need]) -> None:
    """RequestError: the folder cannot be written, or its disk cannot hold all of it; a bucket can."""
    if not isinstance(folder, Path):
        return
    if (wanted := total(needs)) > 0:
        require_place(folder, "CACHE_DIR")
    free = free_bytes(folder)
    if wanted > free:
        raise RequestError(
            f"disk: expected room for {size_text(wanted)} below {folder}, found {size_text(free)} free;"
            " ask for fewer pairs (PAIRS=...), give CACHE_DIR another disk, or free some space"
        )


def estimate(folder: Location, needs: Sequence[Need]) -> str:
    """One line with the bytes a pair of what is missing, the total still to be written and the free space."""
    missing = [need for need in needs if need.pairs]
    items = " + ".join(f"{need.name} {need.bound}{need.each:,.0f}" for need in missing)
    less = next((need.bound for need in missing if need.bound), "")
    free = f", free {size_text(free_bytes(folder))}" if isinstance(folder, Path) else ""
    return f"bytes a pair: {items}; still to write {less}{size_text(total(needs))}{free}"


def _lacking(cache: Cache | None, unit: Unit | None, count: int) -> int:
    """Pairs that a unit of a cache lacks; all where there is none."""
    return count if cache is None or unit is None else sum(stop - start for start, stop in map(cache.bounds, unit.missing()))


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
