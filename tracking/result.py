"""What a tracker says of one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["found", "uncertain", "not_found"]


@dataclass(frozen=True)
class Result:
    """The answer for one frame."""

    box: tuple[float, float, float, float]
    """(x, y, w, h) in frame pixels, top-left corner, 0-based"""
    score: float
    """the classifier's highest response: about 1 at a target as in the first frame, about 0 without one"""
    state: State
    """uncertain: two places look like the target; not_found: none does, and the box is that of the frame before"""
