"""Fresh augmentation of cached crops: new brightness, grey, flip, blur and proposals (or some of them) for every position of the run.

A pure function of (seed, position). Boxes are (x, y, w, h), top-left corner, crop pixels; image axis (2): 0 = ref, 1 = test.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import get_args

import numpy as np

from configs.schema import Augmentation, Pairs
from models.boxes import counter_uniform, draw_proposals, of_rows

# streams of the counter-based generator, away from those of pair sets and of the order
_PHOTOMETRY, _MIX, _PROPOSALS, _CHOICE = 2**43, 2**44, 2**45, 2**46
ALL: tuple[Augmentation, ...] = get_args(Augmentation)
FLIP, BLUR = 0.5, 0.2
"""Probability that a pair is mirrored, and that an image is blurred."""
SIGMA = (0.3, 1.5)
"""Range of the blur's sigma, in pixels."""


@dataclass
class Fresh:
    """n positions: brightness, blur (n, 2) float32; grey, flip (n,) bool, both images of a pair alike."""

    brightness: np.ndarray
    grey: np.ndarray
    flip: np.ndarray
    blur: np.ndarray

    def take(self, rows: np.ndarray) -> Fresh:
        """Some of the positions."""
        return Fresh(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_fresh(seed: int, first: int, count: int, pairs: Pairs) -> Fresh:
    """The photometry of positions first ... first + count - 1, in the ranges of the pair set."""
    uniform = counter_uniform(seed, _PHOTOMETRY, first, count, 8)
    blurred = uniform[:, 4:6] < BLUR
    return Fresh(
        brightness=(1 - pairs.brightness + 2 * pairs.brightness * uniform[:, :2]).astype(np.float32),
        grey=uniform[:, 2] < pairs.grey_probability,
        flip=uniform[:, 3] < FLIP,
        blur=np.where(blurred, SIGMA[0] + (SIGMA[1] - SIGMA[0]) * uniform[:, 6:8], 0).astype(np.float32),
    )


def replayed(brightness: np.ndarray, grey: np.ndarray) -> Fresh:
    """The recorded photometry, brightness (n, 2) and grey (n,), and nothing else."""
    return Fresh(brightness.astype(np.float32), grey.astype(bool), np.zeros(len(grey), bool), np.zeros((len(grey), 2), np.float32))


def combined(recorded: Fresh, drawn: Fresh, names: Collection[str]) -> Fresh:
    """The named ones of brightness, grey, flip and blur as drawn, the others as recorded."""
    return Fresh(*(getattr(drawn if name in names else recorded, name) for name in ("brightness", "grey", "flip", "blur")))


def flip_boxes(boxes: np.ndarray, flip: np.ndarray, crop_size: int) -> np.ndarray:
    """Boxes (n, ..., 4) mirrored left-right where flip (n,): x becomes crop_size - x - w."""
    mirrored = boxes.copy()
    mirrored[flip, ..., 0] = crop_size - boxes[flip, ..., 0] - boxes[flip, ..., 2]
    return mirrored


def fresh_proposals(test_box: np.ndarray, seed: int, positions: int | np.ndarray, pairs: Pairs) -> np.ndarray:
    """New proposals (n, N, 4) float32 around test_box (n, 4): of these positions (n,), ascending, or of n from the first on."""
    return draw_proposals(test_box.astype(np.float64), seed, positions, _PROPOSALS, pairs)


def choose_proposals(seed: int, positions: np.ndarray, stored: int, count: int) -> np.ndarray:
    """Which `count` of a pair's `stored` proposals each position (n,), ascending, uses: (n, count) ascending indices, none twice."""
    return np.sort(np.argsort(of_rows(counter_uniform, seed, _CHOICE, positions, stored), axis=1, kind="stable")[:, :count], axis=1)


def is_fresh(seed: int, step: int, mix: float) -> bool:
    """Whether a step's batch is one of the share `mix` with fresh augmentation."""
    return mix > 0 and bool(counter_uniform(seed, _MIX, step, 1, 1)[0, 0] < mix)
