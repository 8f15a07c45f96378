"""Weights of the samples against a plain list of the same rules."""

from __future__ import annotations

import pytest
import torch

from tracking.memory import Memory


def plain(first: int, room: int, share: float, rates: list[float]) -> dict[int, float]:
    """Sample -> weight after these samples; the first ones are 0 ... first - 1."""
    weights = dict.fromkeys(range(first), 1 / first)
    for number, rate in enumerate(rates, first):
        if len(weights) == room:
            del weights[min((key for key in weights if key >= first), key=lambda key: weights[key])]
        total = sum(weights.values())
        weights = {key: (1 - rate) * value / total for key, value in weights.items()} | {number: rate}
        of_first = sum(weights[key] for key in range(first))
        if of_first < share:
            weights = {key: value * (share / of_first if key < first else (1 - share) / (1 - of_first)) for key, value in weights.items()}
    return weights


@pytest.mark.parametrize(("rates", "share"), [([0.01] * 9, 0.25), ([0.3, 0.01, 0.5, 0.02, 0.4, 0.3], 0.25), ([0.2] * 5, 0.0)])
def test_the_weights_follow_the_rules(rates: list[float], share: float):
    memory = Memory(torch.arange(3.0).reshape(3, 1, 1, 1), torch.zeros(3, 1, 1), room=6, first_share=share)
    for number, rate in enumerate(rates, 3):
        memory.add(torch.full((1, 1, 1), float(number)), torch.zeros(1, 1), rate)
    samples = memory.samples()
    found = dict(zip(samples.features.flatten().int().tolist(), samples.weights.tolist(), strict=True))
    assert found == pytest.approx(plain(3, 6, share, rates))
    assert sum(found.values()) == pytest.approx(1)


def test_first_samples_that_fill_the_room_stay():
    memory = Memory(torch.zeros(3, 1, 1, 1), torch.zeros(3, 1, 1), room=2, first_share=0.25)
    memory.add(torch.ones(1, 1, 1), torch.zeros(1, 1), 0.5)
    assert not memory.samples().features.any() and len(memory.samples().weights) == 3
