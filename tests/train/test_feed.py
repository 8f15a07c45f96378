"""Batches: right rows beside right images, resumable anywhere, fresh only where asked."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cache import Array, Cache
from configs.errors import RunError
from configs.schema import Pairs as PairsSection
from models.boxes import box_iou
from models.preprocess import MEAN, STD
from train.augment import ALL, choose_proposals, draw_fresh, flip_boxes, fresh_proposals, is_fresh
from train.feed import Feed
from train.order import InOrder, Order

SIZE, COUNT, N = 64, 44, 4
SECTION = PairsSection(crop_size=SIZE, proposals=N, count=COUNT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    """Pair i: ref of grey level 4 i with a bright left half and a coloured foot, test of 4 i + 2, target numbers i."""
    arrays = [Array("ref_box", (4,), "float32", ""), Array("test_box", (4,), "float32", ""), Array("proposals", (N, 4), "float32", "")]
    arrays += [Array("brightness", (2,), "float32", ""), Array("grey", (), "bool", "")]
    made = Cache.create(tmp_path_factory.mktemp("c") / "cache", {"a": 1}, COUNT, crop_bytes_bound=20_000, arrays=arrays, part=16, chunk=8)
    unit = made.add_target("teacher", "iou", {"t": 1}, {"target": "iou"}, [Array("iou", (N,), "float16", "")])
    for part in range(made.parts):
        start, stop = made.bounds(part)
        index = np.arange(start, stop, dtype=np.float32)
        box = np.stack([index / 2, index * 0 + 20, index * 0 + 16, index * 0 + 12], 1)
        images = [[np.full((SIZE, SIZE, 3), 4 * i + 2 * k, np.uint8) for k in (0, 1)] for i in range(start, stop)]
        for i, (ref, _) in zip(range(start, stop), images, strict=True):
            ref[:, : SIZE // 2] = 255 - 4 * i
            ref[-8:, :, 0] = 255
        crops = [tuple(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes() for image in pair) for pair in images]
        rows = {"ref_box": box, "test_box": box + 1, "proposals": np.repeat(box[:, None] + 2, N, 1)}
        rows |= {"brightness": np.stack([1 - index / 100, 1 + index / 100], 1), "grey": index.astype(int) % 2 == 0}
        made.pairs.write(part, {k: v.astype(bool if k == "grey" else np.float32) for k, v in rows.items()}, crops=crops)
        unit.write(part, {"iou": np.repeat(index[:, None], N, 1)})
    return made


def feed(cache: Cache, kind: str = "torch", order=None, **options) -> Feed:
    targets = [{"iou": cache.target("teacher", "iou")}]
    order = order or Order([cache.count], [cache.chunk], 2, seed=0)
    defaults = {"batch": 4, "pairs": SECTION, "device": torch.device("cpu"), "kind": kind}
    return Feed([cache], order, targets, **defaults | options)


def grey_level(image: torch.Tensor) -> np.ndarray:
    """Level (B, W) 0 ... 255 of normalised images (B, 3, S, S), averaged over rows and channels."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    return ((image * std + mean) * 255).mean((1, 2)).numpy()


def test_rows_targets_and_images_belong_to_one_pair(cache):
    with_photometry = 0
    fed = feed(cache)
    for batch in fed.batches(0, 15):
        index = batch.pair.astype(np.float32)
        np.testing.assert_allclose(batch.targets["iou/iou"].numpy(), np.repeat(index[:, None], N, 1))
        np.testing.assert_allclose(batch.pairs.ref_box[:, 0].numpy(), index / 2)
        np.testing.assert_allclose(batch.pairs.proposals[:, 0, 0].numpy(), index / 2 + 2)
        expected = np.clip((4 * index + 2) * (1 + index / 100), 0, 255)
        np.testing.assert_allclose(grey_level(batch.test)[:, 0], expected, atol=1.5)
        with_photometry += len(index)
    assert with_photometry == 60
    fed.close()


@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_a_feed_started_anywhere_gives_the_same_bits(cache, kind):
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI has no wheel for this platform")
    first = feed(cache, kind)
    whole = [(batch.ref.clone(), batch.test.clone(), batch.targets["iou/iou"]) for batch in first.batches(0, 8)]
    second = feed(cache, kind)
    for got, want in zip(second.batches(5, 8), whole[5:], strict=True):
        assert torch.equal(got.ref, want[0]) and torch.equal(got.test, want[1]) and torch.equal(got.targets["iou/iou"], want[2])
    again = first.batch(2)
    assert torch.equal(again.ref, whole[2][0])
    first.close()
    second.close()


def test_two_processes_share_one_step_without_overlap(cache):
    one = feed(cache, batch=8)
    halves = [feed(cache, batch=4, rank=rank, world=2) for rank in (0, 1)]
    for step in range(4):
        whole = one.batch(step)
        parts = [half.batch(step) for half in halves]
        assert sorted(whole.pair.tolist()) == sorted(parts[0].pair.tolist() + parts[1].pair.tolist())
        assert torch.equal(whole.ref[1::2], parts[1].ref)


def test_fresh_batches_do_not_depend_on_the_number_of_processes(cache):
    whole = feed(cache, batch=8, augment="fresh").batch(3)
    for rank in (0, 1):
        part = feed(cache, batch=4, rank=rank, world=2, augment="fresh").batch(3)
        assert torch.equal(part.ref, whole.ref[rank::2]) and torch.equal(part.test, whole.test[rank::2])
        assert torch.equal(part.pairs.proposals, whole.pairs.proposals[rank::2])
        assert torch.equal(part.pairs.ref_box, whole.pairs.ref_box[rank::2])


@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_a_broken_crop_is_named_by_cache_and_pair(cache, kind, monkeypatch, capfd):
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI has no wheel for this platform")
    read = cache.read_crops

    def damaged(start, stop):
        refs, tests = read(start, stop)
        if start <= 13 < stop:
            tests[13 - start] = tests[13 - start][:-20]
        return refs, tests

    monkeypatch.setattr(cache, "read_crops", damaged)
    fed = feed(cache, kind, order=InOrder([COUNT]))
    assert fed.batch(2).pair.tolist() == [8, 9, 10, 11]
    with pytest.raises(
        RunError, match=r"cache, pair 13, test crop: expected a JPEG of 64 x 64, found .*; look .* `make verify CACHE=/.*/cache`$"
    ):
        fed.batch(3)
    assert fed.batch(4).pair.tolist() == [16, 17, 18, 19]
    fed.close()
    capfd.readouterr()  # the JPEG libraries complain on stderr themselves


@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_a_missing_part_is_the_error_of_its_batch(tmp_path, kind):
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI has no wheel for this platform")
    arrays = [Array("ref_box", (4,), "float32", ""), Array("test_box", (4,), "float32", ""), Array("proposals", (N, 4), "float32", "")]
    arrays += [Array("brightness", (2,), "float32", ""), Array("grey", (), "bool", "")]
    half = Cache.create(tmp_path / "half", {"a": 1}, 16, crop_bytes_bound=20_000, arrays=arrays, part=8, chunk=8)
    jpeg = cv2.imencode(".jpg", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()
    ones = {array.name: np.ones((8, *array.shape), array.dtype) for array in arrays}
    half.pairs.write(0, ones, crops=[(jpeg, jpeg)] * 8)
    fed = Feed([half], InOrder([16]), [{}], batch=4, pairs=SECTION, device=torch.device("cpu"), kind=kind)
    assert fed.batch(0).pair.tolist() == [0, 1, 2, 3] and fed.batch(1).pair.tolist() == [4, 5, 6, 7]
    with pytest.raises(RunError, match=r"^pairs: expected part 1 \(pairs 8-15\) to be published, found no ledger entry"):
        fed.batch(2)
    half.pairs.write(1, ones, crops=[(jpeg, jpeg)] * 8)
    assert fed.batch(2).pair.tolist() == [8, 9, 10, 11]
    fed.close()


def test_validation_sees_every_pair_once_and_its_last_batch_is_short(cache):
    fed = feed(cache, order=InOrder([COUNT]), batch=8, total=COUNT)
    seen = [batch.pair.tolist() for batch in fed.batches(0, fed.steps)]
    assert [len(one) for one in seen] == [8, 8, 8, 8, 8, 4]
    assert [index for one in seen for index in one] == list(range(COUNT))
    with pytest.raises(IndexError):
        fed.batch(6)
    fed.close()


def test_fresh_batches_have_new_images_and_boxes_and_no_cached_target(cache):
    replay, fresh = feed(cache), feed(cache, augment="fresh")
    flipped = 0
    for old, new in zip(replay.batches(0, 8), fresh.batches(0, 8), strict=True):
        assert new.fresh and not old.fresh
        assert not new.targets
        np.testing.assert_array_equal(old.pair, new.pair)
        assert not torch.equal(old.test, new.test)
        assert not torch.equal(old.pairs.proposals, new.pairs.proposals)
        iou = box_iou(new.pairs.proposals.numpy(), new.pairs.test_box[:, None].numpy())
        assert (iou > 0.1 - 1e-6).all()
        mirrored = (new.pairs.ref_box[:, 0] - old.pairs.ref_box[:, 0]).abs().numpy() > 1e-3
        for at in np.flatnonzero(mirrored):
            assert new.pairs.ref_box[at, 0] == SIZE - old.pairs.ref_box[at, 0] - old.pairs.ref_box[at, 2]
            flipped += 1
        # the ref images have a border between their halves: its sides change places with the flip
        level_old, level_new = grey_level(old.ref), grey_level(new.ref)
        for at in range(4):
            if abs(level_old[at, 2] - level_old[at, -3]) > 60:
                same = np.sign(level_old[at, 2] - level_old[at, -3]) == np.sign(level_new[at, 2] - level_new[at, -3])
                assert same == (not mirrored[at])
    assert 4 < flipped < 28
    again = feed(cache, augment="fresh").batch(3)
    assert torch.equal(again.pairs.proposals, feed(cache, augment="fresh").batch(3).pairs.proposals)


@pytest.mark.parametrize("name", ALL)
def test_one_fresh_augmentation_leaves_the_others_as_recorded(cache, name):
    """Draws of one kind only: images change with those of the image, boxes with a flip, proposals with their own."""
    section = SECTION.model_copy(update={"grey_probability": 0.5})
    old, new = feed(cache, pairs=section), feed(cache, pairs=section, augment="fresh", fresh=(name,))
    images = proposals = boxes = 0
    for step in range(6):
        before, after = old.batch(step), new.batch(step)
        assert after.fresh and not after.targets
        images += not torch.equal(before.ref, after.ref)
        boxes += not torch.equal(before.pairs.ref_box, after.pairs.ref_box)
        proposals += not torch.equal(before.pairs.proposals, after.pairs.proposals)
    assert (images > 0, boxes > 0, proposals > 0) == (name != "proposals", name == "flip", name in ("flip", "proposals"))
    old.close()
    new.close()


def test_a_fresh_batch_reads_only_the_targets_that_belong_to_it(cache):
    fed = feed(cache, mix=0.5, fresh=("proposals",), fresh_targets=("iou",))
    assert all(fed.batch(step).targets.keys() == {"iou/iou"} for step in range(8))
    fed.close()


@pytest.mark.parametrize("options", [{}, {"augment": "none"}, {"augment": "fresh", "fresh": ("blur",)}, {"augment": "fresh"}])
def test_a_step_draws_its_proposals_from_those_of_the_pair(tmp_path, options):
    stored, taken = 12, 5
    arrays = [Array("ref_box", (4,), "float32", ""), Array("test_box", (4,), "float32", ""), Array("proposals", (stored, 4), "float32", "")]
    arrays += [Array("brightness", (2,), "float32", ""), Array("grey", (), "bool", "")]
    made = Cache.create(tmp_path / "pool", {"a": 1}, 8, crop_bytes_bound=20_000, arrays=arrays, part=8, chunk=8)
    jpeg = cv2.imencode(".jpg", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()
    number = np.arange(8 * stored, dtype=np.float32).reshape(8, stored)
    rows = {array.name: np.full((8, *array.shape), 20, array.dtype) for array in arrays} | {"grey": np.zeros(8, bool)}
    rows["proposals"] = np.stack([number, number * 0 + 20, number * 0 + 9, number * 0 + 9], 2)
    made.pairs.write(0, rows, crops=[(jpeg, jpeg)] * 8)
    unit = made.add_target("teacher", "iou", {"t": 1}, {"target": "iou"}, [Array("iou", (stored,), "float16", "")])
    unit.write(0, {"iou": number})
    section = SECTION.model_copy(update={"proposals": stored, "count": 8})
    order = Order([8], [8], 1, seed=0)
    common = {"batch": 8, "pairs": section, "device": torch.device("cpu"), "kind": "torch", "seed": 3, "fresh_targets": ("iou",)}
    fed = Feed([made], order, [{"iou": unit}], proposals=taken, **common | options)
    seen = []
    for batch in fed.batches(0, 4):
        x = batch.pairs.proposals[..., 0].numpy()
        assert x.shape == (8, taken)
        if options != {"augment": "fresh"}:
            # the teacher's number goes with its proposal, none comes twice, and all are of this very pair
            np.testing.assert_array_equal(batch.targets["iou/iou"].numpy(), x)
            assert (np.diff(x, axis=1) > 0).all() and (x // stored == batch.pair[:, None]).all()
        seen.append(x)
    assert any(not np.array_equal(seen[0], other) for other in seen[1:])
    again = Feed([made], order, [{"iou": unit}], proposals=taken, **common | options)
    np.testing.assert_array_equal(again.batch(3).pairs.proposals[..., 0].numpy(), seen[3])
    halves = [Feed([made], order, [{}], proposals=taken, **common | options | {"batch": 4, "rank": rank, "world": 2}) for rank in (0, 1)]
    for rank, half in enumerate(halves):
        np.testing.assert_array_equal(half.batch(2).pairs.proposals[..., 0].numpy(), seen[2][rank::2])
    for one in (fed, again, *halves):
        one.close()


def test_every_stored_proposal_is_drawn_equally_often():
    drawn = choose_proposals(0, np.arange(4000), 16, 4)
    assert drawn.shape == (4000, 4) and (np.diff(drawn, axis=1) > 0).all()
    # 1,000 each expected, standard deviation 27
    assert np.abs(np.bincount(drawn.ravel(), minlength=16) - 1000).max() < 5 * 27.4


def test_mix_makes_its_share_of_steps_fresh():
    share = np.mean([is_fresh(0, step, 0.3) for step in range(2000)])
    assert abs(share - 0.3) < 0.04
    assert not any(is_fresh(0, step, 0.0) for step in range(100))


def test_mixed_steps_follow_the_rule(cache):
    fed = feed(cache, mix=0.5)
    for step in range(8):
        batch = fed.batch(step)
        assert batch.fresh == is_fresh(0, step, 0.5) == (not batch.targets)


def test_none_takes_the_photometry_off(cache):
    batch = feed(cache, augment="none").batch(0)
    np.testing.assert_allclose(grey_level(batch.test)[:, 0], 4 * batch.pair + 2, atol=1.5)


def test_fresh_photometry_keeps_to_its_ranges_and_to_its_position():
    drawn = draw_fresh(0, 0, 4000, SECTION)
    assert 0.8 <= drawn.brightness.min() < 0.81 and 1.19 < drawn.brightness.max() <= 1.2
    assert abs(drawn.grey.mean() - 0.05) < 0.015 and abs(drawn.flip.mean() - 0.5) < 0.03
    assert abs((drawn.blur > 0).mean() - 0.2) < 0.02
    np.testing.assert_array_equal(draw_fresh(0, 100, 5, SECTION).blur, drawn.blur[100:105])


def test_flipping_twice_changes_nothing():
    boxes = np.random.default_rng(0).uniform(0, 40, (6, 3, 4)).astype(np.float32)
    flip = np.array([True, False, True, True, False, True])
    np.testing.assert_allclose(flip_boxes(flip_boxes(boxes, flip, SIZE), flip, SIZE), boxes, rtol=1e-5, atol=1e-5)
    test_box = np.array([[20.0, 20, 16, 12]])
    assert not np.array_equal(fresh_proposals(test_box, 0, 1, SECTION), fresh_proposals(test_box, 0, 2, SECTION))
