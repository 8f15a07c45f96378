"""Batches: right rows beside right images, resumable anywhere, fresh only where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cache import Array, Cache, PairSetSpec, TargetSpec, Unit
from configs.errors import RunError
from configs.schema import PairsConfig
from pairs.batch import Batch
from pairs.boxes import box_iou
from pairs.decode.decoder import MEAN, STD
from pairs.stored import ROWS, pair_arrays
from train.data.augment import ALL, is_fresh
from train.data.feed import Feed, FeedSpec
from train.data.order import InOrder, Order

SIZE, COUNT, N = 64, 44, 4
SECTION = PairsConfig.model_validate({"ref": {"size": SIZE}, "test": {"size": SIZE}, "proposals": N, "count": COUNT})
CPU = torch.device("cpu")


@pytest.fixture(params=["torch", "dali"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each decoder."""
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI has no wheel for this platform")
    return str(request.param)


def create(path: Path, count: int, part: int, pairs: PairsConfig = SECTION) -> Cache:
    """An empty pair set of what a feed reads."""
    arrays = tuple(array for array in pair_arrays(pairs) if array.name in ROWS)
    return Cache.create(path, PairSetSpec({"a": 1}, count, arrays, crop_bytes_bound=20_000, part=part, chunk=8))


def with_iou(cache: Cache, proposals: int) -> Unit:
    """The empty target iou of a teacher of that name."""
    spec = TargetSpec("iou", {"target": "iou"}, (Array("iou", (proposals,), "float16", ""),))
    return cache.add_target("teacher", {"t": 1}, spec)


def fill(cache: Cache, part: int, pairs: PairsConfig = SECTION) -> None:
    """One part: pair i is a ref of grey level 4 i with a bright left half and a coloured foot, and a test of 4 i + 2."""
    start, stop = cache.bounds(part)
    index = np.arange(start, stop, dtype=np.float32)
    box = np.stack([index / 2, index * 0 + 20, index * 0 + 16, index * 0 + 12], 1)
    images = [
        [np.full((image.size, image.size, 3), 4 * i + 2 * k, np.uint8) for k, image in enumerate(pairs.images)] for i in range(start, stop)
    ]
    for i, (ref, _) in zip(range(start, stop), images, strict=True):
        ref[:, : len(ref) // 2] = 255 - 4 * i
        ref[-8:, :, 0] = 255
    crops = [(jpeg(ref), jpeg(test)) for ref, test in images]
    rows = {"ref_box": box, "test_box": box + 1, "proposals": np.repeat(box[:, None] + 2, N, 1)}
    rows |= {"brightness": np.stack([1 - index / 100, 1 + index / 100], 1), "grey": index.astype(int) % 2 == 0}
    cache.pairs.write(part, {k: v.astype(bool if k == "grey" else np.float32) for k, v in rows.items()}, crops=crops)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Pairs as `fill` makes them, target numbers i."""
    made = create(tmp_path_factory.mktemp("c") / "cache", COUNT, 16)
    unit = with_iou(made, N)
    for part in range(made.parts):
        fill(made, part)
        unit.write(part, {"iou": np.repeat(np.arange(*made.bounds(part), dtype=np.float32)[:, None], N, 1)})
    return made


def feed(cache: Cache, **options: Any) -> Feed:
    order = Order([cache.count], [cache.chunk], 2, seed=0)
    plain: dict[str, Any] = {"batch": 4, "pairs": SECTION, "device": CPU, "kind": "torch", "teacher": "teacher", "targets": ("iou",)}
    return Feed(FeedSpec((cache,), **{"order": order} | plain | options))


def one(cache: Cache, step: int, **options: Any) -> Batch:
    """One batch of a feed made for it."""
    fed = feed(cache, **options)
    batch = next(fed.batches(step))
    fed.close()
    return batch


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
        np.testing.assert_allclose(batch.boxes.ref_box[:, 0].numpy(), index / 2)
        np.testing.assert_allclose(batch.boxes.proposals[:, 0, 0].numpy(), index / 2 + 2)
        expected = np.clip((4 * index + 2) * (1 + index / 100), 0, 255)
        np.testing.assert_allclose(grey_level(batch.test)[:, 0], expected, atol=1.5)
        with_photometry += len(index)
    assert with_photometry == 60
    fed.close()


@pytest.mark.parametrize("augment", ["replay", "fresh"])
def test_ref_and_test_have_each_their_size(tmp_path, kind, augment):
    section = SECTION.model_copy(update={"test": SECTION.test.model_copy(update={"size": 96})})
    made = create(tmp_path / "cache", 8, 8)
    fill(made, 0, section)
    batch = one(made, 0, kind=kind, pairs=section, augment=augment, fresh=("flip",), order=InOrder([8]), batch=8, targets=())
    assert batch.ref.shape == (8, 3, 64, 64) and batch.test.shape == (8, 3, 96, 96)
    assert (batch.boxes.ref, batch.boxes.test) == (section.ref, section.test)
    index, levels = batch.pair.astype(np.float32), grey_level(batch.ref)
    np.testing.assert_allclose(grey_level(batch.test)[:, 0], (4 * index + 2) * (1 + index / 100), atol=1.5)
    mirrored = levels[:, 2] < levels[:, -3]
    assert mirrored.any() == (augment == "fresh") and not mirrored.all()
    # a box is mirrored in its own image
    for boxes, shift, size in ((batch.boxes.ref_box, 0, 64), (batch.boxes.test_box, 1, 96), (batch.boxes.proposals[:, 0], 2, 96)):
        x = index / 2 + shift
        np.testing.assert_allclose(boxes[:, 0].numpy(), np.where(mirrored, size - 1 - x - 16 - shift, x))


def test_a_stream_started_anywhere_gives_the_same_bits(cache, kind):
    first = feed(cache, kind=kind)
    whole = [(batch.ref.clone(), batch.test.clone(), batch.targets["iou/iou"]) for batch in first.batches(0, 8)]
    second = feed(cache, kind=kind)
    for got, want in zip(second.batches(5, 8), whole[5:], strict=True):
        assert torch.equal(got.ref, want[0]) and torch.equal(got.test, want[1]) and torch.equal(got.targets["iou/iou"], want[2])
    again = next(first.batches(2))
    assert torch.equal(again.ref, whole[2][0])
    # another stream from within the first
    assert torch.equal(next(first.batches(4)).ref, whole[4][0])
    first.close()
    second.close()


def test_a_stream_is_read_ahead_and_never_beyond_its_end(cache, monkeypatch):
    read: list[int] = []
    plain = Feed._read

    def watched(self: Feed, step: int) -> Any:
        read.append(step)
        return plain(self, step)

    monkeypatch.setattr(Feed, "_read", watched)
    fed = feed(cache)
    batches = fed.batches(3, 12)
    next(batches)
    assert 3 + 2 <= max(read) < 12
    assert len(list(batches)) == 8 and read == list(range(3, 12)) and fed.waited_s > 0
    fed.close()


def test_two_processes_share_one_step_without_overlap(cache):
    whole = feed(cache, batch=8)
    halves = [feed(cache, batch=4, rank=rank, world=2) for rank in (0, 1)]
    for batch, *parts in zip(*(fed.batches(0, 4) for fed in (whole, *halves)), strict=True):
        assert sorted(batch.pair.tolist()) == sorted(parts[0].pair.tolist() + parts[1].pair.tolist())
        for part in parts:
            at = np.isin(batch.pair, part.pair)
            assert len(part.pair) == 4 and torch.equal(batch.ref[at], part.ref)


def test_fresh_batches_do_not_depend_on_the_number_of_processes(cache):
    whole = one(cache, 3, batch=8, augment="fresh")
    for rank in (0, 1):
        part = one(cache, 3, batch=4, rank=rank, world=2, augment="fresh")
        at = np.isin(whole.pair, part.pair)
        assert at.sum() == 4 and torch.equal(part.ref, whole.ref[at]) and torch.equal(part.test, whole.test[at])
        assert torch.equal(part.boxes.proposals, whole.boxes.proposals[at])
        assert torch.equal(part.boxes.ref_box, whole.boxes.ref_box[at])


@pytest.mark.parametrize("world", [2, 4])
def test_each_process_reads_chunks_of_its_own(tmp_path, world, monkeypatch):
    """A whole pass over 8 chunks, in windows of 4: no chunk is read by two processes, and together they see every pair."""
    made = create(tmp_path / "eight", 64, 64)
    fill(made, 0)
    seen, chunks = [], []
    for rank in range(world):
        read: list[int] = []
        plain = made.read_crops
        with monkeypatch.context() as patch:
            patch.setattr(made, "read_crops", lambda start, stop, read=read, plain=plain: read.append(start // 8) or plain(start, stop))
            fed = feed(made, order=Order([64], [8], 4, seed=0), batch=8 // world, rank=rank, world=world, targets=())
            seen += [pair for batch in fed.batches(0, 8) for pair in batch.pair.tolist()]
            fed.close()
        chunks.append(read)
    assert sorted(seen) == list(range(64))
    assert sorted(chunk for read in chunks for chunk in read) == list(range(8)) and {len(read) for read in chunks} == {8 // world}


def test_a_broken_crop_is_named_by_cache_and_pair(cache, kind, monkeypatch, capfd):
    read = cache.read_crops

    def damaged(start, stop):
        refs, tests = read(start, stop)
        if start <= 13 < stop:
            tests[13 - start] = tests[13 - start][:-20]
        return refs, tests

    monkeypatch.setattr(cache, "read_crops", damaged)
    fed = feed(cache, kind=kind, order=InOrder([COUNT]))
    batches = fed.batches(2)
    assert next(batches).pair.tolist() == [8, 9, 10, 11]
    with pytest.raises(
        RunError, match=r"cache, pair 13, test crop: expected a JPEG of 64 x 64, found .*; look .* `make verify CACHE=/.*/cache`$"
    ):
        next(batches)
    assert next(fed.batches(4)).pair.tolist() == [16, 17, 18, 19]
    fed.close()
    capfd.readouterr()  # the JPEG libraries complain on stderr themselves


def test_a_missing_part_is_the_error_of_its_batch(tmp_path, kind):
    half = create(tmp_path / "half", 16, 8)
    fill(half, 0)
    fed = feed(half, kind=kind, order=InOrder([16]), targets=())
    batches = fed.batches(0)
    assert next(batches).pair.tolist() == [0, 1, 2, 3] and next(batches).pair.tolist() == [4, 5, 6, 7]
    with pytest.raises(RunError, match=r"^pairs: expected part 1 \(pairs 8-15\) to be published, found no ledger entry"):
        next(batches)
    fill(half, 1)
    assert next(fed.batches(2)).pair.tolist() == [8, 9, 10, 11]
    fed.close()


@pytest.mark.parametrize("error", [KeyError("x"), IndexError(3), OSError(5, "Input/output error"), MemoryError()])
def test_whatever_reading_raises_comes_through_unchanged(cache, monkeypatch, error):
    def fails(start: int, stop: int) -> None:
        raise error

    monkeypatch.setattr(cache, "read_crops", fails)
    fed = feed(cache)
    with pytest.raises(type(error)) as caught:
        next(fed.batches(0))
    assert caught.value is error
    fed.close()


def test_validation_sees_every_pair_once_and_its_last_batch_is_short(cache):
    fed = feed(cache, order=InOrder([COUNT]), batch=8)
    for _ in range(2):
        seen = [batch.pair.tolist() for batch in fed.batches(0)]
        assert [len(pairs) for pairs in seen] == [8, 8, 8, 8, 8, 4]
        assert [index for pairs in seen for index in pairs] == list(range(COUNT))
    assert fed.spec.steps == 6 and not list(fed.batches(6))
    fed.close()
    some = feed(cache, order=InOrder([COUNT], most=10), batch=8)
    assert [batch.pair.tolist() for batch in some.batches(0)] == [list(range(8)), [8, 9]]
    some.close()


def test_fresh_batches_have_new_images_and_boxes_and_no_cached_target(cache):
    replay, fresh = feed(cache), feed(cache, augment="fresh")
    flipped = 0
    for old, new in zip(replay.batches(0, 8), fresh.batches(0, 8), strict=True):
        assert new.fresh and not old.fresh
        assert not new.targets
        np.testing.assert_array_equal(old.pair, new.pair)
        assert not torch.equal(old.test, new.test)
        assert not torch.equal(old.boxes.proposals, new.boxes.proposals)
        iou = box_iou(new.boxes.proposals.numpy(), new.boxes.test_box[:, None].numpy())
        assert (iou > 0.1 - 1e-6).all()
        mirrored = (new.boxes.ref_box[:, 0] - old.boxes.ref_box[:, 0]).abs().numpy() > 1e-3
        for at in np.flatnonzero(mirrored).tolist():
            assert new.boxes.ref_box[at, 0] == SIZE - 1 - old.boxes.ref_box[at, 0] - old.boxes.ref_box[at, 2]
            flipped += 1
        # the ref images have a border between their halves: its sides change places with the flip
        level_old, level_new = grey_level(old.ref), grey_level(new.ref)
        for at in range(4):
            if abs(level_old[at, 2] - level_old[at, -3]) > 60:
                same = np.sign(level_old[at, 2] - level_old[at, -3]) == np.sign(level_new[at, 2] - level_new[at, -3])
                assert same == (not mirrored[at])
    assert 4 < flipped < 28
    assert torch.equal(one(cache, 3, augment="fresh").boxes.proposals, one(cache, 3, augment="fresh").boxes.proposals)


@pytest.mark.parametrize("name", ALL)
def test_one_fresh_augmentation_leaves_the_others_as_recorded(cache, name):
    """Draws of one kind only: images change with those of the image, boxes with a flip, proposals with their own."""
    section = SECTION.model_copy(update={"grey_probability": 0.5})
    old, new = feed(cache, pairs=section), feed(cache, pairs=section, augment="fresh", fresh=(name,))
    images = proposals = boxes = 0
    for before, after in zip(old.batches(0, 6), new.batches(0, 6), strict=True):
        assert after.fresh and not after.targets
        images += not torch.equal(before.ref, after.ref)
        boxes += not torch.equal(before.boxes.ref_box, after.boxes.ref_box)
        proposals += not torch.equal(before.boxes.proposals, after.boxes.proposals)
    assert (images > 0, boxes > 0, proposals > 0) == (name != "proposals", name == "flip", name in ("flip", "proposals"))
    old.close()
    new.close()


def test_a_fresh_batch_reads_only_the_targets_that_belong_to_it(cache):
    fed = feed(cache, mix=0.5, fresh=("proposals",), fresh_targets=("iou",))
    assert all(batch.targets.keys() == {"iou/iou"} for batch in fed.batches(0, 8))
    fed.close()


@pytest.mark.parametrize("options", [{}, {"augment": "none"}, {"augment": "fresh", "fresh": ("blur",)}, {"augment": "fresh"}])
def test_a_step_draws_its_proposals_from_those_of_the_pair(tmp_path, options):
    stored, taken = 12, 5
    section = SECTION.model_copy(update={"proposals": stored, "count": 8})
    made = create(tmp_path / "pool", 8, 8, section)
    unit = with_iou(made, stored)
    number = np.arange(8 * stored, dtype=np.float32).reshape(8, stored)
    rows = {array.name: np.full((8, *array.shape), 20, array.dtype) for array in made.pairs.arrays.values()} | {"grey": np.zeros(8, bool)}
    rows["proposals"] = np.stack([number, number * 0 + 20, number * 0 + 9, number * 0 + 9], 2)
    black = jpeg(np.zeros((SIZE, SIZE, 3), np.uint8))
    made.pairs.write(0, rows, crops=[(black, black)] * 8)
    unit.write(0, {"iou": number})
    own = {"order": Order([8], [8], 1, seed=0), "batch": 8, "pairs": section, "seed": 3, "fresh_targets": ("iou",), "proposals": taken}
    fed = feed(made, **own | options)
    seen = []
    for batch in fed.batches(0, 4):
        x = batch.boxes.proposals[..., 0].numpy()
        assert x.shape == (8, taken)
        if options != {"augment": "fresh"}:
            # the teacher's number goes with its proposal, none comes twice, and all are of this very pair
            np.testing.assert_array_equal(batch.targets["iou/iou"].numpy(), x)
            assert (np.diff(x, axis=1) > 0).all() and (x // stored == batch.pair[:, None]).all()
        seen.append(x)
    fed.close()
    assert any(not np.array_equal(seen[0], other) for other in seen[1:])
    np.testing.assert_array_equal(one(made, 3, **own | options).boxes.proposals[..., 0].numpy(), seen[3])
    for rank in (0, 1):
        half = one(made, 2, **own | options | {"batch": 4, "rank": rank, "world": 2})
        np.testing.assert_array_equal(half.boxes.proposals[..., 0].numpy(), seen[2][4 * rank : 4 * rank + 4])


def test_mixed_steps_follow_the_rule(cache):
    fed = feed(cache, mix=0.5)
    for step, batch in enumerate(fed.batches(0, 8)):
        assert batch.fresh == is_fresh(0, step, 0.5) == (not batch.targets)
    fed.close()


def test_none_takes_the_photometry_off(cache):
    batch = one(cache, 0, augment="none")
    np.testing.assert_allclose(grey_level(batch.test)[:, 0], 4 * batch.pair + 2, atol=1.5)
