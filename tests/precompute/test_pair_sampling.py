"""Pair i is a pure function of (seed, split, i, attempt), and what is drawn follows REFERENCE sections 1 and 2."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from configs.schema import ImageConfig, PairsConfig
from pairs.boxes import box_iou
from pairs.geometry import jitter
from pairs.streams import CENTER, CHOICE, SCALE, counter_normal, counter_uniform
from precompute import sampling
from precompute.datasets.dataset import Dataset, FileSource
from precompute.sampling import draw
from tests.compare import frames_of

PAIRS = PairsConfig(proposals=4)


def _dataset(lengths: list[int], seed: int = 0, gone: float = 0.4, still: bool = False) -> Dataset:
    """Sequences of random boxes, a share `gone` of the frames invisible."""
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    boxes = np.column_stack([rng.uniform(0, 200, (total, 2)), rng.uniform(20, 80, (total, 2))])
    folders, frames, offsets = ["a"] * len(lengths), ["1.jpg"] * len(lengths), np.cumsum([0, *lengths])
    files = FileSource("/x", folders, frames, offsets)
    return Dataset(
        name="x",
        kind="got10k",
        split="train",
        root="/x",
        sequences=[f"s{i}" for i in range(len(lengths))],
        folders=folders,
        frames=frames,
        offsets=offsets,
        boxes=boxes,
        visible=rng.random(total) >= gone,
        files=files,
        source=files,
        still=still,
        problems=[],
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    return _dataset([25, 19, 90, 300])


def _same(a: sampling.DrawnPairs, b: sampling.DrawnPairs, rows: slice = slice(None)) -> None:
    """Whether `a` is these rows of `b`."""
    for field in fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name)[rows], err_msg=field.name)
        assert getattr(a, field.name).dtype == getattr(b, field.name).dtype


@pytest.mark.parametrize("mode", ["interval", "causal"])
def test_any_block_gives_the_same_pairs(data, mode):
    pairs = PAIRS.model_copy(update={"mode": mode})
    whole = draw(data, pairs, 0, 70, True)
    for first, count in ((0, 1), (13, 40), (69, 1), (5, 0)):
        _same(draw(data, pairs, first, count, True), whole, slice(first, first + count))


def test_attempts_choose_rows_of_their_own(data):
    for attempt in (0, 2, 1):
        drawn = draw(data, PAIRS, 10, 6, True, attempt)
        assert drawn.attempt.tolist() == [attempt] * 6
        for row in range(6):
            _same(draw(data, PAIRS, 10 + row, 1, True, attempt), drawn, slice(row, row + 1))
    assert len({tuple(draw(data, PAIRS, 10, 1, True, attempt).center[0, 1]) for attempt in range(4)}) == 4
    with pytest.raises(ValueError, match=r"expected attempts in \[0, 256\)"):
        draw(data, PAIRS, 0, 1, True, 256)


def test_put_replaces_a_row(data):
    rows, other = draw(data, PAIRS, 0, 6, True), draw(data, PAIRS, 4, 1, True, 3)
    rows.put(4, other)
    _same(other, rows, slice(4, 5))
    _same(draw(data, PAIRS, 0, 4, True), rows, slice(0, 4))
    _same(draw(data, PAIRS, 5, 1, True), rows, slice(5, 6))


def test_splits_and_seeds_differ(data):
    train, val = draw(data, PAIRS, 0, 50, True), draw(data, PAIRS, 0, 50, False)
    other = draw(data, PAIRS.model_copy(update={"seed": 1}), 0, 50, True)
    assert (train.center != val.center).any()
    assert (train.center != other.center).any()


def _slow_frames(data: Dataset, pairs: PairsConfig, row: int) -> tuple[int, int, int]:
    """Sequence, ref and test frame of pair `row`, one list at a time."""
    u = counter_uniform(pairs.seed, CHOICE[0], row, 1, 3)[0]
    least = max(pairs.min_visible, 2)
    usable = [
        s
        for s in range(len(data.sequences))
        if len(data.visible[frames_of(data, s)]) >= pairs.min_frames and data.visible[frames_of(data, s)].sum() >= least
    ]
    sequence = usable[int(u[0] * len(usable))]
    seen = [frame for frame, visible in enumerate(data.visible[frames_of(data, sequence)]) if visible]
    if pairs.mode == "interval":
        ref = seen[int(u[1] * len(seen))]
        near = [frame for frame in seen if abs(frame - ref) <= pairs.max_gap]
    else:
        ref = seen[int(u[1] * (len(seen) - 1))]
        near, gap = [], pairs.max_gap
        while not near:
            near = [frame for frame in seen if ref < frame <= ref + gap]
            gap += 5
    return sequence, ref, near[int(u[2] * len(near))]


@pytest.mark.parametrize("mode", ["interval", "causal"])
@pytest.mark.parametrize(("gap", "gone"), [(50, 0.4), (1, 0.95), (3, 0.9)])
def test_frames_equal_the_plain_choice(mode, gap, gone):
    data = _dataset([25, 19, 90, 300, 40], seed=2, gone=gone)
    pairs = PAIRS.model_copy(update={"mode": mode, "max_gap": gap, "min_visible": 1})
    drawn = draw(data, pairs, 0, 150, True)
    for row in range(150):
        assert (int(drawn.sequence[row]), *drawn.frame[row].tolist()) == _slow_frames(data, pairs, row)
    if mode == "causal":
        assert (drawn.frame[:, 1] > drawn.frame[:, 0]).all()
        # the case that the gap exists to grow for
        assert (gap == 50) == ((drawn.frame[:, 1] - drawn.frame[:, 0]).max() <= gap)
    else:
        assert np.abs(drawn.frame[:, 1] - drawn.frame[:, 0]).max() <= gap


def test_sequences_are_uniform_over_the_usable_ones(data):
    drawn = draw(data, PAIRS, 0, 3000, True)
    counts = np.bincount(drawn.sequence, minlength=4)
    assert counts[1] == 0
    assert (np.abs(counts[[0, 2, 3]] - 1000) < 120).all()


def test_still_images_are_used_twice():
    data = _dataset([1] * 6, gone=0, still=True)
    for mode in ("interval", "causal"):
        drawn = draw(data, PAIRS.model_copy(update={"mode": mode}), 0, 40, True)
        assert not drawn.frame.any()
        assert set(drawn.sequence.tolist()) == set(range(6))


def test_jitter_and_boxes_follow_the_formulas(data):
    pairs = PAIRS.model_copy(update={"ref": ImageConfig(size=128, area_factor=2, scale_jitter=0.1, center_jitter=0.3)})
    drawn = draw(data, pairs, 5, 20, True)
    normal = counter_normal(pairs.seed, SCALE[0], 5, 20, 4)
    uniform = counter_uniform(pairs.seed, CENTER[0], 5, 20, 4)
    for row in range(20):
        for image, (scale, center, crop, factor) in enumerate(((0.1, 0.3, 128, 2), (0.5, 4.5, 288, 5))):
            x, y, w, h = data.boxes[frames_of(data, int(drawn.sequence[row]))][drawn.frame[row, image]]
            size = np.array([w * np.exp(normal[row, 2 * image] * scale), h * np.exp(normal[row, 2 * image + 1] * scale)])
            shift = (uniform[row, 2 * image : 2 * image + 2] - 0.5) * np.sqrt(size[0] * size[1]) * center
            np.testing.assert_allclose(drawn.size[row, image], size, rtol=1e-12)
            np.testing.assert_allclose(drawn.center[row, image], [x + w / 2 + shift[0], y + h / 2 + shift[1]], rtol=1e-12)
            side = np.ceil(np.sqrt(size[0] * size[1]) * factor)
            box = (drawn.ref_box, drawn.test_box)[image][row]
            np.testing.assert_allclose(box[2:], np.array([w, h]) * crop / side, rtol=1e-6)
            np.testing.assert_allclose(box[:2] + box[2:] / 2, (crop - 1) / 2 - shift * crop / side, rtol=1e-4, atol=1e-3)


def test_without_jitter_the_target_stands_in_the_middle(data):
    drawn = draw(data, PAIRS, 0, 10, True)
    np.testing.assert_allclose(drawn.ref_box[:, :2] + drawn.ref_box[:, 2:] / 2, 143.5, rtol=1e-5)


def test_jitter_is_centred_and_of_the_stated_spread():
    box = np.tile([100.0, 100, 40, 40], (20_000, 2, 1))
    center, size = jitter(
        box, counter_normal(0, 1, 0, 20_000, 4).reshape(-1, 2, 2), counter_uniform(0, 2, 0, 20_000, 4).reshape(-1, 2, 2), PAIRS
    )
    np.testing.assert_array_equal(center[:, 0], 120)
    np.testing.assert_array_equal(size[:, 0], 40)
    assert abs(np.log(size[:, 1] / 40).std() - 0.5) < 0.01
    reach = (center[:, 1] - 120) / np.sqrt(size[:, 1].prod(axis=1))[:, None]
    assert np.abs(reach).max() <= 2.25
    assert abs(reach.std() - 4.5 / np.sqrt(12)) < 0.02


def test_photometry_is_of_training_only(data):
    train = draw(data, PAIRS.model_copy(update={"grey_probability": 0.25, "brightness": 0.3}), 0, 2000, True)
    assert 0.2 < train.grey.mean() < 0.3
    assert train.brightness.dtype == np.float32
    assert 0.7 <= train.brightness.min() < 0.72
    assert 1.28 < train.brightness.max() <= 1.3
    assert abs(np.corrcoef(train.brightness.T)[0, 1]) < 0.1
    val = draw(data, PAIRS, 0, 50, False)
    assert not val.grey.any()
    assert (val.brightness == 1).all()


def test_proposals_surround_the_test_box(data):
    drawn = draw(data, PAIRS, 0, 100, True)
    assert drawn.proposals.shape == (100, 4, 4)
    assert (box_iou(drawn.proposals.astype(np.float64), drawn.test_box[:, None].astype(np.float64)) > 0.09).all()
    others = np.roll(drawn.test_box, 1, axis=0)[:, None]
    assert (box_iou(drawn.proposals.astype(np.float64), others.astype(np.float64)).mean()) < 0.3
