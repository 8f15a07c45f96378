"""Which pairs a pair set holds: pair i is a pure function of (seed, split, i, attempt) and the data set's annotation.

Letters: n pairs, N proposals a pair. Image axis (2): 0 = ref, 1 = test. Boxes are (x, y, w, h), top-left corner.

Streams of the counter-based generator (`models.boxes`): a pair set's split and the attempt at a pair choose a block of 2**16 streams,
block = (split * 256 + attempt) with train 0 and val 1; within it

    0       3 uniform: sequence, ref frame, test frame
    1       4 normal: log size of the jittered boxes, (image, w / h)
    2       4 uniform: centre of the jittered boxes, (image, x / y)
    3       3 uniform: grey, brightness of ref, of test
    4, 5    uniform: what a synthetic source makes the ref frame from, the test frame from (what both share: stream 4)
    1024-   proposals (`models.boxes.PROPOSAL_STREAMS` streams)

An attempt above 0 replaces a pair whose frames could not be used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from configs.schema import Pairs
from models.boxes import counter_normal, counter_uniform, draw_proposals
from precompute.datasets import Dataset

BLOCK = 2**16
CHOICE, SCALE, CENTER, PHOTOMETRY, SYNTHETIC, PROPOSALS = 0, 1, 2, 3, 4, 1024
ATTEMPTS = 256
GAP_STEP = 5


@dataclass
class PairSet:
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

    def take(self, rows: np.ndarray | slice) -> PairSet:
        """The pair set of some rows."""
        return PairSet(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: np.ndarray, other: PairSet) -> None:
        """Replaces rows by those of `other`, in place."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)


def draw(dataset: Dataset, pairs: Pairs, first: int, count: int, training: bool, attempt: np.ndarray | int = 0) -> PairSet:
    """Pairs first ... first + count - 1 of a split's pair set.

    training: the train split with photometry; else the val split, brightness 1 and no grey. attempt: one for all, or (count,), each in
    [0, 256). The sequence is uniform over the usable ones.
    RequestError: no usable sequence.
    """
    attempts = np.broadcast_to(np.asarray(attempt, np.int64), (count,))
    if count and (attempts.min() < 0 or attempts.max() >= ATTEMPTS):
        raise ValueError(f"expected attempts in [0, {ATTEMPTS}), found {attempts.min()} to {attempts.max()}")
    runs = np.split(np.arange(count), np.flatnonzero(np.diff(attempts)) + 1)
    parts = [_draw(dataset, pairs, first + int(run[0]), len(run), training, int(attempts[run[0]])) for run in runs if len(run)]
    if not parts:
        parts = [_draw(dataset, pairs, first, 0, training, 0)]
    return PairSet(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(PairSet)})


def _draw(dataset: Dataset, pairs: Pairs, first: int, count: int, training: bool, attempt: int) -> PairSet:
    block = ((0 if training else 1) * ATTEMPTS + attempt) * BLOCK
    sequence, frame = _choose(dataset, pairs, counter_uniform(pairs.seed, block + CHOICE, first, count, 3))
    random = np.stack([counter_uniform(pairs.seed, block + SYNTHETIC + k, first, count, dataset.source.numbers) for k in (0, 1)], axis=1)
    random[:, 1, : dataset.source.shared] = random[:, 0, : dataset.source.shared]
    box = dataset.boxes[dataset.offsets[sequence][:, None] + frame]
    if dataset.source.numbers:
        _synthetic_boxes(dataset, sequence, frame, random, box)
    normal = counter_normal(pairs.seed, block + SCALE, first, count, 4).reshape(count, 2, 2)
    uniform = counter_uniform(pairs.seed, block + CENTER, first, count, 4).reshape(count, 2, 2)
    center, size = jitter(box, normal, uniform, pairs)
    crop = to_crop(box, center, size, pairs)
    grey, brightness = _photometry(counter_uniform(pairs.seed, block + PHOTOMETRY, first, count, 3), pairs, training)
    return PairSet(
        sequence=sequence.astype(np.int32),
        frame=frame.astype(np.int32),
        attempt=np.full(count, attempt, np.uint8),
        center=center,
        size=size,
        ref_box=crop[:, 0].astype(np.float32),
        test_box=crop[:, 1].astype(np.float32),
        proposals=draw_proposals(crop[:, 1], pairs.seed, first, block + PROPOSALS, pairs),
        brightness=brightness,
        grey=grey,
        random=random,
    )


def _choose(dataset: Dataset, pairs: Pairs, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequence (n,) and frames (n, 2), from uniform (n, 3)."""
    usable = dataset.usable(pairs)
    sequence = usable[_pick(uniform[:, 0], 0, len(usable))]
    low, high = dataset.visible_offsets[sequence], dataset.visible_offsets[sequence + 1]
    still = dataset.still[sequence]
    causal = pairs.mode == "causal"
    rows = dataset.visible_rows
    # causal: the last visible frame has none after it, so it is no ref
    base = _pick(uniform[:, 1], low, np.where(still, high, high - 1) if causal else high)
    row = rows[base]
    if causal:
        # the gap that grows by 5 until it reaches the next visible frame, in closed form
        ahead = rows[np.minimum(base + 1, high - 1)] - row
        gap = pairs.max_gap + GAP_STEP * np.maximum(0, -(-(ahead - pairs.max_gap) // GAP_STEP))
        test_low, test_high = base + 1, np.minimum(np.searchsorted(rows, row + gap, "right"), high)
    else:
        # the ref frame itself lies within the gap (as in the public code), so the gap never has to grow
        test_low = np.maximum(np.searchsorted(rows, row - pairs.max_gap, "left"), low)
        test_high = np.minimum(np.searchsorted(rows, row + pairs.max_gap, "right"), high)
    test = np.where(still, base, _pick(uniform[:, 2], test_low, np.maximum(test_high, test_low + 1)))
    frames = rows[np.stack([base, np.minimum(test, len(rows) - 1)], axis=1)] - dataset.offsets[sequence][:, None]
    return sequence, frames


def _pick(uniform: np.ndarray, low: np.ndarray | int, high: np.ndarray | int) -> np.ndarray:
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


def jitter(box: np.ndarray, normal: np.ndarray, uniform: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size (n, 2, 2) of the boxes that the crops are centred on (REFERENCE section 2).

    box (n, 2, 4) in frame pixels; normal (n, 2, 2) for w, h; uniform (n, 2, 2) for x, y. size = (w, h) * exp(N * scale_jitter); the centre
    moves by U(-0.5, 0.5) * sqrt(w * h of that size) * center_jitter on each axis.
    """
    scale = np.array([pairs.ref_scale_jitter, pairs.test_scale_jitter])[:, None]
    shift = np.array([pairs.ref_center_jitter, pairs.test_center_jitter])[:, None]
    size = box[..., 2:] * np.exp(normal * scale)
    reach = np.sqrt(size[..., 0] * size[..., 1])[..., None]
    return box[..., :2] + 0.5 * box[..., 2:] + (uniform - 0.5) * reach * shift, size


def crop_side(size: np.ndarray, factor: float) -> np.ndarray:
    """Side of the square crop in frame pixels, ceil(sqrt(w * h) * factor), as float64; size (..., 2)."""
    return np.ceil(np.sqrt(size[..., 0] * size[..., 1]) * factor)


def to_crop(box: np.ndarray, center: np.ndarray, size: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Annotated boxes (n, 2, 4) in crop pixels: centre (S - 1) / 2 + (centre - crop centre) * S / side, size * S / side.

    The crop's centre is the unrounded one of the jittered box, as in the public code; S = crop_size.
    """
    scale = (pairs.crop_size / crop_side(size, pairs.search_area_factor))[..., None]
    middle = (pairs.crop_size - 1) / 2 + (box[..., :2] + 0.5 * box[..., 2:] - center) * scale
    sides = box[..., 2:] * scale
    return np.concatenate([middle - 0.5 * sides, sides], axis=-1)


def _photometry(uniform: np.ndarray, pairs: Pairs, training: bool) -> tuple[np.ndarray, np.ndarray]:
    """grey (n,) bool and brightness (n, 2) float32, from uniform (n, 3); validation: none."""
    if not training:
        return np.zeros(len(uniform), bool), np.ones((len(uniform), 2), np.float32)
    brightness = 1 - pairs.brightness + 2 * pairs.brightness * uniform[:, 1:]
    return uniform[:, 0] < pairs.grey_probability, brightness.astype(np.float32)
