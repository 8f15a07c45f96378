"""The calls that go beside the arrows of docs/architecture.md: by name, when they are asked for, through this file alone.

Training and the store know nothing of frames; where a data set lies on this machine, precompute can tell whether a cache is still of it,
and compute again what is damaged in it. Networks know nothing of the store; an int8 file is calibrated on its crops.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast


class Frames(Protocol):
    """What the module precompute.frames offers. `cache`: a cache.Cache, which this room does not know."""

    def content_at_hand(self, name: str, split: str) -> str | None:
        """See precompute.frames."""

    def sample_line(self, cache: Any, number: int) -> str | None:
        """See precompute.frames."""

    def faults(self, cache: Any) -> list[tuple[int, str]]:
        """See precompute.frames."""


class Repair(Protocol):
    """What the module precompute.repair offers."""

    def repair(self, path: Any, weights: Path | None, say: Callable[[str], None]) -> None:
        """See precompute.repair."""


class Samples(Protocol):
    """What the module cache.samples offers."""

    def crops(self, path: str, most: int) -> list[bytes]:
        """See cache.samples."""


def samples() -> Samples:
    """The module cache.samples."""
    return cast(Samples, importlib.import_module("cache.samples"))


def repairs() -> Repair:
    """The module precompute.repair."""
    return cast(Repair, importlib.import_module("precompute.repair"))


def frames() -> Frames:
    """The module precompute.frames."""
    return cast(Frames, importlib.import_module("precompute.frames"))
