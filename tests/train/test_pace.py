"""The host stays near a GPU: what is queued holds memory."""

from typing import ClassVar

import pytest
import torch

from train.data import pace
from train.data.pace import LEAD, Pace


class Event:
    """Counts as torch's does, and tells which were waited for."""

    waited: ClassVar[list[int]] = []
    made = 0

    def __init__(self):
        self.number, Event.made = Event.made, Event.made + 1

    def record(self):
        pass

    def synchronize(self):
        Event.waited.append(self.number)


@pytest.mark.parametrize("steps", [LEAD, LEAD + 1, 3 * LEAD])
def test_the_batch_so_many_steps_ago_is_waited_for_and_no_later_one(monkeypatch, steps):
    monkeypatch.setattr(pace.torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "made", 0)
    monkeypatch.setattr(Event, "waited", [])
    paced = Pace(torch.device("cuda"))
    for step in range(steps):
        paced.step()
        assert Event.waited == list(range(step + 1 - LEAD))


def test_a_processor_has_nothing_to_wait_for(monkeypatch):
    monkeypatch.setattr(pace.torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "made", 0)
    paced = Pace(torch.device("cpu"))
    for _ in range(2 * LEAD):
        paced.step()
    assert Event.made == 0
