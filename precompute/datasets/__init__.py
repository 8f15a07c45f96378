"""Data sets by name: annotation in memory, frames on disk."""

from __future__ import annotations

from precompute.datasets.dataset import Dataset, FrameSource
from precompute.datasets.kinds import KINDS
from precompute.datasets.opening import open_entry
from precompute.datasets.text import Problem

__all__ = ["KINDS", "Dataset", "FrameSource", "Problem", "open_entry"]
