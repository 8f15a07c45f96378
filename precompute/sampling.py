"""Which pairs a pair set holds: pair i is a pure function of (seed, split, i, attempt) and the data set's annotation.

Letters: n pairs, N proposals a pair. Image axis (2): 0 = ref, 1 = test. Boxes are (x, y, w, h), top-left corner. The random streams are
those of `pairs.streams`: a block for each split and attempt; an attempt above 0 replaces a pair whose frames could not be used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from configs.schema import PairsConfig
from pairs import streams
from pairs.boxes import draw_proposals
from pairs.geometry import jitter, to_crop
from pairs.photometry import draw_recorded
from precompute.datasets import Dataset

GAP_STEP = 5


@dataclass
class DrawnPairs:
    """n drawn pairs, one row each; nothing of it needs a pixel.

    sequence (n,) int32, frame (n, 2) int32 from 0, attempt (n,) uint8; center (n, 2, 2) and size (n, 2, 2) float64: the jittered box that
    each crop is centred on, (image, x / y) and (image, w / h) in frame pixels; ref_box, test_box (n, 4) float32 and proposals (n, N, 4)
    float32 in crop pixels; brightness (n, 2) float32; grey (n,) bool; random (n, 2, R) float64: what a synthetic frame is made from (R = 0
    for files).
    """

    sequence: np.ndarray
    frame: np.ndarray
    attempt: np.ndarray
    center: np.ndarray
    size: np.ndarray
    ref_box: np.ndarray
    test_box: np.ndarray
    proposals: np.ndarray
    brightness: np.ndarray
    grey: np.ndarray
    random: np.ndarray

    def __len__(self) -> int:
        return len(self.sequence)

    def put(self, row: int, other: DrawnPairs) -> None:
        """Replaces a row by the one row of `other`, in place."""
        for field in fields(self):
            getattr(self, field.name)[row] = getattr(other, field.name)[0]


def draw(dataset: Dataset, pairs: PairsConfig, first: int, count: int, training: bool, attempt: int = 0) -> DrawnPairs:
    """Pairs first ... first + count - 1 of a split's pair set, their draw number `attempt` in [0, 256).

    training: the train split with photometry; else the val split, brightness 1 and no grey. The sequence is uniform over the usable ones.
    RequestError: no usable sequence.
    """
    if not 0 <= attempt < streams.ATTEMPTS:
        raise ValueError(f"expected attempts in [0, {streams.ATTEMPTS}), found {attempt}")
    block = streams.pair_block(training, attempt)

    def uniform(stream: int, numbers: int) -> np.ndarray:
        return streams.counter_uniform(pairs.seed, block + stream, first, count, numbers)

    sequence, frame = _choose(dataset, pairs, uniform(streams.CHOICE[0], 3))
    random = np.stack([uniform(streams.SYNTHETIC[image], dataset.source.numbers) for image in (0, 1)], axis=1)
    random[:, 1, : dataset.source.shared] = random[:, 0, : dataset.source.shared]
    box = dataset.boxes[dataset.offsets[sequence][:, None] + frame]
    if dataset.source.numbers:
        _synthetic_boxes(dataset, sequence, frame, random, box)
    normal = streams.counter_normal(pairs.seed, block + streams.SCALE[0], first, count, 4).reshape(count, 2, 2)
    center, size = jitter(box, normal, uniform(streams.CENTER[0], 4).reshape(count, 2, 2), pairs)
    crop = to_crop(box, center, size, pairs)
    grey, brightness = draw_recorded(uniform(streams.RECORDED_PHOTOMETRY[0], 3), pairs, training)
    return DrawnPairs(
        sequence=sequence.astype(np.int32),
        frame=frame.astype(np.int32),
        attempt=np.full(count, attempt, np.uint8),
        center=center,
        size=size,
        ref_box=crop[:, 0].astype(np.float32),
        test_box=crop[:, 1].astype(np.float32),
        proposals=draw_proposals(crop[:, 1], pairs.seed, first, block + streams.PROPOSALS[0], pairs),
        brightness=brightness,
        grey=grey,
        random=random,
    )


def _choose(dataset: Dataset, pairs: PairsConfig, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequence (n,) and frames (n, 2), from uniform (n, 3). A still image has one frame: ref and test are the same."""
    usable = dataset.usable(pairs)
    sequence = usable[_whole_number(uniform[:, 0], 0, len(usable))]
    low, high = dataset.visible_offsets[sequence], dataset.visible_offsets[sequence + 1]
    causal = pairs.mode == "causal" and not dataset.still
    rows = dataset.visible_rows
    # causal: the last visible frame has none after it, so it is no ref
    base = _whole_number(uniform[:, 1], low, high - 1 if causal else high)
    row = rows[base]
    if causal:
        # the gap that grows by 5 until it reaches the next visible frame, in closed form
        ahead = rows[base + 1] - row
        gap = pairs.max_gap + GAP_STEP * np.maximum(0, -(-(ahead - pairs.max_gap) // GAP_STEP))
        test_low, test_high = base + 1, np.minimum(np.searchsorted(rows, row + gap, "right"), high)
    else:
        # the ref frame itself lies within the gap (as in the public code), so the gap never has to grow
        test_low = np.maximum(np.searchsorted(rows, row - pairs.max_gap, "left"), low)
        test_high = np.minimum(np.searchsorted(rows, row + pairs.max_gap, "right"), high)
    test = _whole_number(uniform[:, 2], test_low, test_high)
    return sequence, rows[np.stack([base, test], axis=1)] - dataset.offsets[sequence][:, None]


def _whole_number(uniform: np.ndarray, low: np.ndarray | int, high: np.ndarray | int) -> np.ndarray:
    """Whole numbers in [low, high) from uniform ones in [0, 1)."""
    span = np.asarray(high) - low
    # the product can round up to `span` itself
    return low + np.minimum((uniform * span).astype(np.int64), span - 1)


def _synthetic_boxes(dataset: Dataset, sequence: np.ndarray, frame: np.ndarray, random: np.ndarray, box: np.ndarray) -> None:
    """Replaces the annotated boxes (n, 2, 4) by those of the frames that a synthetic source will make."""
    for row in range(len(sequence)):
        for image in (0, 1):
            made = dataset.source.box(int(sequence[row]), int(frame[row, image]), random[row, image])
            if made is not None:
                box[row, image] = made
