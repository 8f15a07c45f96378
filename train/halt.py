"""What a run does after a step: goes on, keeps a checkpoint, or keeps one and stops. All processes do the same after the same step."""

from __future__ import annotations

import time
from typing import Any

import torch

from configs.stop import Deferred, Stopped

GO_ON, KEEP, STOP = 0, 1, 2


class Halt:
    """Asked after every step; a context, within which Ctrl-C and SIGTERM wait for the end of the step."""

    def __init__(self, minutes: float | None, world: int, backend: str = "gloo") -> None:
        """minutes: between two checkpoints, None: no matter how long; world: processes; backend: of their process group."""
        self._signals, self._world = Deferred(), world
        self._interval = 60 * minutes if minutes is not None else float("inf")
        self._kept = time.monotonic()
        # on the processor, where asking does not wait for the GPU
        self._group: Any = torch.distributed.new_group(backend="gloo") if world > 1 and backend != "gloo" else None

    def __enter__(self) -> Halt:
        self._signals.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._signals.__exit__(*error)

    def ask(self) -> int:
        """GO_ON, KEEP or STOP: the most that a process wants. Every process must ask equally often."""
        wish = STOP if self._signals.number is not None else KEEP if time.monotonic() - self._kept > self._interval else GO_ON
        if self._world > 1:
            wishes = torch.tensor(wish)
            torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX, self._group)
            wish = int(wishes)
        return wish

    def kept(self) -> None:
        """A checkpoint was written just now."""
        self._kept = time.monotonic()

    def stopped(self, kept: str) -> Stopped:
        """What is raised in the end; kept: in words."""
        # another process may have got the signal
        return Stopped(self._signals.number or 15, kept)
