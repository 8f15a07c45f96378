"""How far the host may run ahead of a GPU."""

from __future__ import annotations

from collections import deque

import torch

LEAD = 4
"""Steps that a GPU may still have to do when the next one is queued: enough for a host that is held up for a moment."""


class Pace:
    """Lets the host wait until the GPU has done what was queued before the batch LEAD batches ago.

    Without it a host that queues faster than the GPU works takes batch after batch from the feed, and each holds its memory, pinned and on
    the GPU, until its step has been done: a training of recorded steps had 70 GB of an H200 after six minutes. Nothing to do on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._open: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """What the caller does with the last batch has been queued."""
        if not self._gpu:
            return
        event = torch.cuda.Event()
        event.record()
        self._open.append(event)
        if len(self._open) > LEAD:
            self._open.popleft().synchronize()
