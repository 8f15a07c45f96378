"""What is done to the pixels of a pair beyond cutting them: brightness, grey, mirroring, blur. Imports no torch.

Letters: n pairs. Image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import numpy as np

from configs.schema import PairsConfig


@dataclass
class Photometry:
    """Of n pairs: brightness (n, 2) float32, factors > 0; grey, flip (n,) bool, both images alike; blur (n, 2) float32, sigma in pixels."""

    brightness: np.ndarray
    grey: np.ndarray
    flip: np.ndarray
    blur: np.ndarray

    def __len__(self) -> int:
        return len(self.grey)

    def take(self, rows: np.ndarray) -> Photometry:
        """That of some pairs."""
        return Photometry(*(getattr(self, field.name)[rows] for field in fields(self)))

    def replaced(self, other: Photometry, names: Collection[str]) -> Photometry:
        """The named ones of brightness, grey, flip and blur from `other`, the rest as it is here."""
        return Photometry(*(getattr(other if field.name in names else self, field.name) for field in fields(self)))


def recorded(rows: Mapping[str, np.ndarray]) -> Photometry:
    """What a pair set records, brightness (n, 2) and grey (n,); nothing mirrored, nothing blurred."""
    grey = rows["grey"].astype(bool)
    return Photometry(rows["brightness"].astype(np.float32), grey, np.zeros(len(grey), bool), np.zeros((len(grey), 2), np.float32))


def none(count: int) -> Photometry:
    """Plain crops of `count` pairs."""
    return recorded({"brightness": np.ones((count, 2)), "grey": np.zeros(count)})


def brightness_of(uniform: np.ndarray, pairs: PairsConfig) -> np.ndarray:
    """Factors in [1 - b, 1 + b) as float32, from uniform numbers in [0, 1) of any shape."""
    return (1 - pairs.brightness + 2 * pairs.brightness * uniform).astype(np.float32)


def draw_recorded(uniform: np.ndarray, pairs: PairsConfig, training: bool) -> tuple[np.ndarray, np.ndarray]:
    """grey (n,) bool and brightness (n, 2) float32 of a pair set, from uniform (n, 3); validation: none."""
    if not training:
        return np.zeros(len(uniform), bool), np.ones((len(uniform), 2), np.float32)
    return uniform[:, 0] < pairs.grey_probability, brightness_of(uniform[:, 1:], pairs)
