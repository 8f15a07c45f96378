"""How long whoever computes waited for data."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch


class Waits:
    """Adds up the time within `with` blocks. On a GPU that of its stream: the host only queues, and the stream waits for what it queued.

    Nothing here waits itself: a block of a GPU counts from when its end has been reached.
    """

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        self._seconds = 0.0
        self._began: Any = None
        self._open: deque[tuple[Any, Any]] = deque()

    def _mark(self) -> Any:
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self) -> None:
        self._began = self._mark()

    def __exit__(self, *error: object) -> None:
        if self.gpu:
            self._open.append((self._began, self._mark()))
        else:
            self._seconds += self._mark() - self._began

    @property
    def seconds(self) -> float:
        """All blocks so far that have been reached."""
        while self._open and self._open[0][1].query():
            began, ended = self._open.popleft()
            self._seconds += began.elapsed_time(ended) / 1000
        return self._seconds
