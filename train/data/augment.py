"""Fresh augmentation of cached crops: new brightness, grey, flip, blur and proposals (or some of them) for every position of the run.

A pure function of (seed, position). Boxes are (x, y, w, h), top-left corner, crop pixels; image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from configs.schema import Augmentation, PairsConfig
from pairs.boxes import draw_proposals
from pairs.photometry import Photometry, brightness_of
from pairs.streams import FRESH_PHOTOMETRY, FRESH_PROPOSALS, MIX, PROPOSAL_CHOICE, counter_uniform, of_rows

ALL: tuple[Augmentation, ...] = get_args(Augmentation)
FLIP, BLUR = 0.5, 0.2
"""Probability that a pair is mirrored, and that an image is blurred."""
SIGMA = (0.3, 1.5)
"""Range of the blur's sigma, in pixels."""


def draw_fresh(seed: int, first: int, count: int, pairs: PairsConfig) -> Photometry:
    """The photometry of positions first ... first + count - 1, in the ranges of the pair set."""
    uniform = counter_uniform(seed, FRESH_PHOTOMETRY[0], first, count, 8)
    blurred = uniform[:, 4:6] < BLUR
    return Photometry(
        brightness=brightness_of(uniform[:, :2], pairs),
        grey=uniform[:, 2] < pairs.grey_probability,
        flip=uniform[:, 3] < FLIP,
        blur=np.where(blurred, SIGMA[0] + (SIGMA[1] - SIGMA[0]) * uniform[:, 6:8], 0).astype(np.float32),
    )


def fresh_proposals(test_box: np.ndarray, seed: int, positions: int | np.ndarray, pairs: PairsConfig) -> np.ndarray:
    """New proposals (n, N, 4) float32 around test_box (n, 4): of these positions (n,), ascending, or of n from the first on."""
    return draw_proposals(test_box.astype(np.float64), seed, positions, FRESH_PROPOSALS[0], pairs)


def choose_proposals(seed: int, positions: np.ndarray, stored: int, count: int) -> np.ndarray:
    """Which `count` of a pair's `stored` proposals each position (n,), ascending, uses: (n, count) ascending indices, none twice."""
    drawn = of_rows(counter_uniform, seed, PROPOSAL_CHOICE[0], positions, stored)
    return np.sort(np.argsort(drawn, axis=1, kind="stable")[:, :count], axis=1)


def is_fresh(seed: int, step: int, mix: float) -> bool:
    """Whether a step's batch is one of the share `mix` with fresh augmentation."""
    return mix > 0 and bool(counter_uniform(seed, MIX[0], step, 1, 1)[0, 0] < mix)
