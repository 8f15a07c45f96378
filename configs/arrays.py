"""What a cache is asked to hold: the one type of a stored array, and of a target with all that belongs to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Array:
    """One stored array: `shape` is that of one pair, `doc` says what it holds and in which units."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    doc: str
    compress: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one pair, before compression."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class TargetSpec:
    """One target of one teacher, as it is written to a cache and looked for in one."""

    name: str
    identity: Mapping[str, Any]
    """what its numbers depend on beside the pairs and the teacher"""
    arrays: tuple[Array, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    """small arrays that belong to the target as a whole"""
    about: Mapping[str, Any] = field(default_factory=dict)
    """what people are told of it; no part of its identity"""

    @property
    def pair_bytes(self) -> int:
        """Bytes of one pair, before compression."""
        return sum(array.row_bytes for array in self.arrays)
