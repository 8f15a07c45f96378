"""Time spent waiting for data: of the caller on a processor, of the stream on a GPU."""

from __future__ import annotations

import time

import torch

from train.data.waits import Waits


def test_on_a_processor_it_is_the_callers_time():
    waits = Waits(torch.device("cpu"))
    for _ in range(2):
        with waits:
            time.sleep(0.02)
        time.sleep(0.02)
    assert 0.04 <= waits.seconds < 0.06


def test_on_a_gpu_it_is_the_streams_time_once_it_has_got_there(monkeypatch):
    clock = [0.0]
    reached = [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock[0]

        def query(self) -> bool:
            return self.at <= reached[0]

        def elapsed_time(self, end: Event) -> float:
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    waits = Waits(torch.device("cuda"))
    for length in (0.5, 0.25):
        clock[0] += 1
        with waits:
            clock[0] += length
    assert waits.seconds == 0, "the stream has not got there, and nobody waits for it"
    reached[0] = 1.5
    assert waits.seconds == 0.5
    reached[0] = 9.0
    assert waits.seconds == 0.75 == waits.seconds
