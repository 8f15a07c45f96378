"""Data sets by name: annotation in memory, frames on disk."""

from __future__ import annotations

from pairs.annotation import Problem
from precompute.datasets.dataset import Dataset, FrameSource
from precompute.datasets.kinds import KINDS
from precompute.datasets.opening import open_entry

__all__ = ["KINDS", "Dataset", "FrameSource", "Problem", "open_entry"]
