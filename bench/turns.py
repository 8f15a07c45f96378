"""Kinds of work timed in turns: one kind at a time, warm, many steps; then the next kind; and all of them again.

A machine that speeds up or slows down between two turns touches all kinds of a turn, so ratios are taken within a turn, and the median of
the turns counts. A turn's time is that of a block of steps together, not of single steps: work of other threads that a step leaves behind
is paid for within the block.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Length:
    """How long each kind is measured."""

    warmup: int
    """steps before the first turn of a kind counts; a later turn has a sixth of them"""
    steps: int
    """steady steps of a kind, shared out among the turns"""
    turns: int

    @property
    def block(self) -> int:
        """Steady steps of a turn."""
        return max(1, self.steps // self.turns)


@dataclass
class Measured:
    """Of one kind."""

    seconds: list[float] = field(default_factory=list)
    """a pair, of each turn"""
    peak: int = 0
    """bytes that the process (on a GPU: PyTorch on it) held at most meanwhile; 0: unknown"""

    @property
    def ms(self) -> float:
        """A pair, median of the turns."""
        return 1e3 * statistics.median(self.seconds)


Work = tuple[Callable[[], object], int]
"""One step, and its pairs"""


def synchronize(device: torch.device) -> None:
    """Waits for what the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device, count: int = 1) -> float:
    """Seconds of a call, over `count` calls together, the device's work included."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return (time.perf_counter() - began) / count


def reset_peak(device: torch.device) -> None:
    """Begins a new measurement of memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # Linux: the largest resident size becomes the present one


def peak(device: torch.device) -> int:
    """Bytes held at most since `reset_peak`; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def take_turns(kinds: Mapping[str, Work], length: Length, device: torch.device) -> dict[str, Measured]:
    """Every kind, turn by turn."""
    measured = {name: Measured() for name in kinds}
    for turn in range(length.turns):
        for name, (work, pairs) in kinds.items():
            reset_peak(device)
            for _ in range(length.warmup if turn == 0 else length.warmup // 6):
                work()
            measured[name].seconds.append(timed(work, device, length.block) / pairs)
            measured[name].peak = max(measured[name].peak, peak(device))
    return measured


@dataclass(frozen=True)
class Ratio:
    """One kind's time over another's, turn by turn: the median, the least and the most."""

    value: float
    least: float
    most: float


def ratio(kind: Sequence[float], base: Sequence[float]) -> Ratio:
    """Of the seconds of the same turns."""
    values = sorted(one / other for one, other in zip(kind, base, strict=True))
    return Ratio(statistics.median(values), values[0], values[-1])
