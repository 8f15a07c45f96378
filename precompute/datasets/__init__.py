"""Data sets by name: annotation in memory, frames on disk."""

from __future__ import annotations

from precompute.datasets.dataset import Dataset, Source
from precompute.datasets.opening import KINDS, open_dataset, open_entry
from precompute.datasets.text import Problem

__all__ = ["KINDS", "Dataset", "Problem", "Source", "open_dataset", "open_entry"]
