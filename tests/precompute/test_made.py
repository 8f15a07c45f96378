"""What `make cache` may hold in memory, and what its parts say that they were made with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

import configs
from cache import Unit
from configs import RequestError
from configs.machine import free_memory
from configs.schema import PairsConfig
from kdlosses import TARGETS, Sizes, target_spec
from models import network_sizes
from precompute.made import Made, other_rounding
from precompute.memory import limit, require_memory, work_bytes

PAIRS = PairsConfig()


def needed(names: tuple[str, ...], batch: int, bits: int | None = None) -> int:
    channels, numbers = network_sizes("atom_resnet18")
    sizes = Sizes(channels, numbers, PAIRS, channels, bits)
    return work_bytes("atom_resnet18", PAIRS, batch, [target_spec(name, sizes) for name in names], 64)


def test_the_work_grows_with_the_batch_and_hardly_with_the_targets():
    everything = tuple(TARGETS)
    assert needed(everything, 64) == 2 * needed(everything, 32)
    # two batches of numbers beside what any forward pass holds, not a part of 1,024 pairs: 11.5 GB of numbers, three times over
    assert 1e9 < needed(("iou",), 32) < needed(everything, 32) < 6e9
    # a compressed array waits for its chunk
    assert needed(everything, 32, 10) - needed(everything, 32) == 2 * 64 * (995_328 + 6_635_520)


def test_work_that_does_not_fit_is_refused_with_what_to_do(monkeypatch):
    with pytest.raises(RequestError, match=r"memory: expected 5\.0 GB for batches of 32 .* a limit of 2\.0 GB; lower teacher\.batch"):
        require_memory(5 * 10**9, limit(2.0), 32)
    require_memory(5 * 10**9, limit(6.0), 32)
    assert 0 < limit(None) <= free_memory()
    monkeypatch.setattr("precompute.memory.free_memory", lambda: 80)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert limit(None) == 5


def test_growth_with_another_rounding_is_said():
    first: Made = {"batch": 8, "torch": "1"}
    unit = cast(Unit, SimpleNamespace(parts_there=lambda: [0, 3], entry=lambda part: {"made": first} if part == 3 else None))
    assert not other_rounding({"maps": unit}, first)
    assert other_rounding({"maps": unit}, {"batch": 4, "torch": "1"}) == [
        "maps: its finished parts were made with batch 8 (now 4): new ones differ by rounding; goes on"
    ]
    nothing = cast(Unit, SimpleNamespace(parts_there=list))
    old = cast(Unit, SimpleNamespace(parts_there=lambda: [0], entry=lambda part: {}))
    assert not other_rounding({"a": nothing, "b": old}, first)


def test_the_limit_is_a_field():
    assert configs.load("atom_cfkd", ["memory_gb=1.5"]).memory_gb == 1.5
