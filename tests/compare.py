"""What several tests compare: networks before and after, files before and after."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

import models
from precompute.datasets import Dataset


def state_of(students: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.clone() for name, value in students.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts in which a parameter or a buffer of BatchNorm is another number."""
    parts = {word: part for part, word in models.PARTS.items()}
    return {parts[name.split(".")[2]] for name in before if not torch.equal(before[name], after[name])}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but the records of work."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "history")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def frames_of(data: Dataset, sequence: int) -> slice:
    """The rows of a sequence in the data set's arrays over all frames."""
    return slice(data.offsets[sequence], data.offsets[sequence + 1])
