"""Pairs from still images: boxes fit the objects that are drawn, and each frame is a function of the pair's numbers alone."""

from __future__ import annotations

from dataclasses import fields

import cv2
import numpy as np
import pytest

from configs.errors import RequestError
from configs.schema import PairsConfig
from pairs.geometry import crop_side
from precompute.crops import make_pair
from precompute.datasets import open_entry
from precompute.datasets.synthetic import affine, light
from precompute.sampling import draw

PAIRS = PairsConfig.model_validate({"proposals": 2, "ref": {"size": 64}, "test": {"size": 64}})
TRIANGLE = [60.0, 40.0, 100.0, 44.0, 70.0, 90.0]
SECOND = [110.0, 60.0, 120.0, 60.0, 120.0, 75.0, 110.0, 75.0]


@pytest.fixture
def root(tmp_path, write_coco):
    """Three images; a.jpg has a white object of two rings on black, b.jpg one of a ring, c.jpg a box without outline."""
    annotations = [
        {"id": 1, "image_id": 0, "iscrowd": 0, "bbox": [60, 40, 60, 50], "segmentation": [TRIANGLE, SECOND]},
        {"id": 2, "image_id": 4, "iscrowd": 0, "bbox": [20, 20, 40, 30], "segmentation": [[20, 20, 60, 20, 60, 50, 20, 50]]},
        {"id": 3, "image_id": 2, "iscrowd": 0, "bbox": [20, 20, 40, 30], "segmentation": {"counts": [1], "size": [1, 1]}},
        {"id": 4, "image_id": 2, "iscrowd": 0, "bbox": [5, 5, 6, 6], "segmentation": [[5, 5, 11, 5, 11, 11]]},
    ]
    write_coco(tmp_path, {0: ("a.png", 160, 120), 4: ("b.png", 100, 140), 2: ("c.png", 90, 80)}, annotations)
    # eightfold and averaged: fillPoly's own smoothing makes a shape half a pixel fatter
    large = np.zeros((8 * 120, 8 * 160, 3), np.uint8)
    for ring in (TRIANGLE, SECOND):
        cv2.fillPoly(large, [np.rint(8 * np.array(ring).reshape(-1, 2) - 0.5).astype(np.int32)], (255, 255, 255))
    picture = cv2.resize(large, (160, 120), interpolation=cv2.INTER_AREA)
    assert cv2.imwrite(str(tmp_path / "images" / "train2014" / "a.png"), picture)
    return tmp_path


def _open(root, kind, **options):
    return open_entry(kind, {"kind": kind, "root": str(root), "train": options}, "train")


def _numbers(source, seed):
    return np.random.default_rng(seed).random(source.numbers)


def _extent(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]])


@pytest.mark.parametrize("seed", range(12))
def test_synth_box_fits_the_mapped_object(root, seed):
    data = _open(root, "coco_synth")
    numbers = _numbers(data.source, seed)
    numbers[4] = 1  # no blur
    frame = data.source.load(0, 0, numbers)
    box = data.source.box(0, 0, numbers)
    assert np.abs(_extent(frame[..., 0] > 100) - box).max() < 2
    assert (box[:2] >= 0).all()
    assert (box[:2] + box[2:] <= np.array(frame.shape[1::-1]) + 1).all()
    np.testing.assert_array_equal(frame, data.source.load(0, 0, numbers))


def test_synth_keeps_a_target_at_the_border_on_the_canvas(root):
    data = _open(root, "coco_synth")
    sides = []
    for seed in range(40):
        numbers = _numbers(data.source, seed)
        for sequence in range(4):
            box = data.source.box(sequence, 0, numbers)
            frame = data.source.load(sequence, 0, numbers)
            assert (box[:2] >= -1e-9).all()
            assert (box[:2] + box[2:] <= np.array(frame.shape[1::-1]) + 1e-9).all()
            sides.append(np.sqrt(box[2:].prod()))
    assert max(sides) > 1.5 * min(sides)


def test_without_an_outline_the_corners_of_the_box_are_mapped(root):
    data = _open(root, "coco_synth")
    numbers = np.full(data.source.numbers, 0.5)
    np.testing.assert_allclose(data.source.box(2, 0, numbers), [20, 20, 40, 30], atol=1e-9)
    numbers[3] = 1.0
    turned = data.source.box(2, 0, numbers)
    cos, sin = np.cos(0.45), np.sin(0.45)
    np.testing.assert_allclose(turned[2:], [40 * cos + 30 * sin, 40 * sin + 30 * cos], rtol=1e-9)
    np.testing.assert_allclose(turned[:2] + turned[2:] / 2, [40, 35], rtol=1e-9)


def test_middle_numbers_change_nothing():
    np.testing.assert_allclose(affine(np.full(4, 0.5)), np.eye(2), atol=1e-12)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(light(image, np.full(7, 0.5)), image)


def test_light_table_equals_the_formula():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    numbers = np.array([0.9, 0.1, 0.8, 0.3, 0.2, 0.6, 0.9])
    gain = np.exp(0.2 * 0.6) * (1 + 0.06 * (2 * numbers[4:] - 1))
    slow = np.clip(((image.astype(float) - 128) * (1 - 0.2 * 0.4) + 128) * gain, 0, 255)
    assert np.abs(light(image, numbers) - slow).max() <= 0.5 + 1e-9
    numbers[:2] = 0.1, 1.0
    assert light(image, numbers).std() < 0.8 * light(image, np.where(np.arange(7) == 0, 1, numbers)).std()


@pytest.mark.parametrize("seed", range(12))
def test_blend_box_fits_the_pasted_object(root, seed):
    data = _open(root, "coco_blend")
    assert data.sequences == ["a.png/1", "b.png/2"]
    numbers = _numbers(data.source, seed)
    numbers[-7] = 1  # no blur
    frame = data.source.load(0, 0, numbers)
    box = data.source.box(0, 0, numbers)
    # the background, b.png, is of one grey of 160; the object white
    assert frame.shape == (140, 100, 3)
    ground = np.median(frame[..., 0])
    assert np.abs(_extent(frame[..., 0] > ground + 30) - box).max() < 2.5
    assert (box[:2] >= -1e-9).all()
    assert (box[:2] + box[2:] <= np.array([100, 140]) + 1e-9).all()


def test_blend_frames_of_a_pair_share_the_background(tmp_path, write_coco):
    images = {i: (f"{i}.png", 100 + i, 100) for i in range(6)}
    ring = [[20, 20, 60, 20, 60, 50, 20, 50]]
    write_coco(tmp_path, images, [{"id": i, "image_id": i, "bbox": [20, 20, 40, 30], "segmentation": ring} for i in range(6)])
    data = _open(tmp_path, "coco_blend")
    rows = draw(data, PAIRS, 0, 40, True)
    np.testing.assert_array_equal(rows.random[:, 0, 0], rows.random[:, 1, 0])
    assert (rows.random[:, 0, 1:] != rows.random[:, 1, 1:]).any(axis=1).all()
    widths = set()
    for row in range(40):
        sequence = int(rows.sequence[row])
        ref, test = (data.source.load(sequence, 0, rows.random[row, image]) for image in (0, 1))
        assert ref.shape == test.shape
        assert ref.shape[1] != 100 + sequence
        widths.add(ref.shape[1])
    assert len(widths) == 6


@pytest.mark.parametrize("kind", ["coco_synth", "coco_blend"])
def test_they_are_pair_sources_like_any_other(root, kind):
    data = _open(root, kind)
    assert data.still
    rows = draw(data, PAIRS, 0, 20, True)
    part = draw(data, PAIRS, 7, 5, True)
    for field in fields(rows):
        np.testing.assert_array_equal(getattr(rows, field.name)[7:12], getattr(part, field.name))
    made, again = ([make_pair(data.source, rows, row, PAIRS) for row in range(20)] for _ in range(2))
    assert [pair[:2] for pair in made] == [pair[:2] for pair in again]
    assert all(pair.ref != pair.test for pair in made)
    scale = 64 / crop_side(rows.size, PAIRS)
    for row in range(20):
        box = data.source.box(int(rows.sequence[row]), 0, rows.random[row, 1])
        np.testing.assert_allclose(rows.test_box[row, 2:], box[2:] * scale[row, 1], rtol=1e-5)


def test_content_hash_covers_the_outlines(root, write_coco):
    first = {kind: _open(root, kind).content_hash for kind in ("coco", "coco_synth", "coco_blend")}
    assert len(set(first.values())) == 3
    file = root / "annotations" / "instances_train2014.json"
    file.write_text(file.read_text().replace("70.0, 90.0", "75.0, 90.0"))
    assert _open(root, "coco").content_hash == first["coco"]
    assert _open(root, "coco_synth").content_hash != first["coco_synth"]
    assert _open(root, "coco_blend").content_hash != first["coco_blend"]


def test_any_layout_with_boxes_gives_synthetic_pairs(tmp_path, write_got10k):
    folder = write_got10k(tmp_path, [3, 2], size=(64, 48))
    (folder / "GOT-10k_Train_000001" / "cover.label").write_text("8\n0\n8\n")
    data = _open(tmp_path, "coco_synth", layout="got10k")
    assert data.sequences == [f"GOT-10k_Train_{name}" for name in ("000001/0", "000001/2", "000002/0", "000002/1")]
    assert data.frame_path(1, 0) == folder / "GOT-10k_Train_000001" / "00000003.jpg"
    np.testing.assert_allclose(data.source.box(1, 0, np.full(data.source.numbers, 0.5)), data.boxes[1], atol=1e-9)
    rows = draw(data, PAIRS, 0, 10, True)
    assert all(make_pair(data.source, rows, row, PAIRS).ref for row in range(10))


def test_blend_needs_outlines_on_two_images(tmp_path, write_coco):
    write_coco(
        tmp_path, {1: ("a.png", 60, 60)}, [{"id": 1, "image_id": 1, "iscrowd": 0, "bbox": [0, 0, 40, 40], "segmentation": [TRIANGLE]}]
    )
    with pytest.raises(RequestError, match=r"expected outlined objects of at least 24 pixels on two images or more, found 1 on 1"):
        _open(tmp_path, "coco_blend")
