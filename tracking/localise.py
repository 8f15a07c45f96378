"""From the classifier's response to a position and a state (ATOM's advanced localisation, arXiv:1811.07628).

Letters: S side of the classifier's crop. Positions are (x, y) in its pixels; the last position of the target is the crop's middle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from configs.tracking import LocalisationConfig
from tracking.result import State


class Place(NamedTuple):
    """Where the target is."""

    position: np.ndarray
    """(2,) x, y"""
    score: float
    state: State
    hard_negative: bool
    """something else looks much like the target: to be learnt at once"""


def localise(response: np.ndarray, target: np.ndarray, config: LocalisationConfig) -> Place:
    """response (S, S), rows first; target (2,) its width and height in pixels.

    A second peak, outside the target's neighbourhood, is a rival above `distractor` times the first: of the two the one is taken that is
    near the last position, if just one is; else the higher one, and the state is uncertain. Above `hard_negative` times the first it is
    learnt from.
    """
    first, score = _peak(response)
    if score < config.not_found:
        return Place(first, score, "not_found", False)
    second, rival = _peak(_without(response, first, config.neighbourhood * target))
    if rival > config.distractor * score:
        middle, reach = (len(response) - 1) / 2, config.displacement * len(response) / 2
        far = [bool(np.hypot(*(place - middle)) > reach) for place in (first, second)]
        if far == [True, False]:
            return Place(second, rival, "found", True)
        return Place(first, score, "found" if far == [False, True] else "uncertain", far == [False, True])
    return Place(first, score, "found", rival > config.hard_negative * score and rival > config.not_found)


def _peak(response: np.ndarray) -> tuple[np.ndarray, float]:
    row, column = divmod(int(response.argmax()), response.shape[1])
    return np.array([column, row], float), float(response[row, column])


def _without(response: np.ndarray, place: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The response with zeros in a box of these sides around a place."""
    low = np.maximum(np.rint(place - sides / 2), 0).astype(int)
    high = np.rint(place + sides / 2).astype(int) + 1
    rest = response.copy()
    rest[low[1] : high[1], low[0] : high[0]] = 0
    return rest
