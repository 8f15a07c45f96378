"""Cutting against a plain twin that pads the whole frame; boxes against drawn rectangles; frames that cannot be used."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from configs.schema import ImageConfig, PairsConfig
from pairs.crops import cut, encode
from pairs.frames import FrameError, read_frame
from pairs.geometry import crop_side, to_crop
from pairs.headers import truncated


def _slow_cut(frame: np.ndarray, cx: float, cy: float, w: float, h: float, factor: float, size: int) -> np.ndarray:
    """REFERENCE section 2 to the letter: the last row and column are dropped where one pixel more is padded than needed."""
    side = math.ceil(math.sqrt(w * h) * factor)
    x1, y1 = int(np.rint(cx - side / 2)), int(np.rint(cy - side / 2))
    height, width = frame.shape[:2]
    if max(x1 + side - width + 1, 0) > 0:
        frame = frame[:, : width - 1]
    if max(y1 + side - height + 1, 0) > 0:
        frame = frame[: height - 1]
    far = 4 * side + 2 * max(height, width)
    padded = np.pad(frame, ((far, far), (far, far), (0, 0)), mode="edge")
    return cv2.resize(padded[y1 + far : y1 + far + side, x1 + far : x1 + far + side], (size, size), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("seed", range(4))
def test_cut_equals_padding_everything_first(seed):
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    met = 0
    for _ in range(60):
        cx, cy = rng.uniform(-20, 90), rng.uniform(-20, 70)
        w, h = rng.uniform(0.3, 30, 2)
        factor = float(rng.choice([1.5, 2.0, 5.0]))
        try:
            crop, (x1, y1, side) = cut(frame, (cx, cy), (w, h), ImageConfig(size=32, area_factor=factor))
        except FrameError as error:
            assert "expected a crop that meets the frame of 64 x 48" in str(error)
            continue
        met += 1
        np.testing.assert_array_equal(crop, _slow_cut(frame, cx, cy, w, h, factor, 32))
        assert side == math.ceil(math.sqrt(w * h) * factor)
        assert abs(x1 - (cx - side / 2)) <= 0.5
        assert abs(y1 - (cy - side / 2)) <= 0.5
    assert met > 30


@pytest.mark.parametrize(
    ("cx", "x1"),
    [(20.5, 10), (21.5, 10), (20.0, 9), (21.0, 10)],  # side 22 of 11 at factor 2: ties 9.5 -> 10 and 10.5 -> 10
)
def test_corner_is_rounded_half_to_even(cx, x1):
    frame = np.zeros((64, 64, 3), np.uint8)
    assert cut(frame, (cx, 30), (11, 11), ImageConfig(size=32, area_factor=2))[1] == (x1, 19, 22)


def test_a_crop_that_ends_on_the_border_replicates_the_column_before_the_last():
    frame = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None], (16, 16, 3))
    crop, region = cut(np.ascontiguousarray(frame), (0, 8), (16, 16), ImageConfig(size=32, area_factor=2))
    assert region == (-16, -8, 32)
    assert crop[8, 16:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 14]


def test_crops_that_cannot_be_cut_are_frame_errors():
    frame = np.zeros((48, 64, 3), np.uint8)
    for place, message in (
        ((20, 20, 0, 5), r"expected a crop of 1 to 32767 pixels, found 0 for a box of 0 x 5"),
        ((20, 20, -3, 5), r"expected a crop of 1"),
        ((20, 20, float("nan"), 5), r"expected a crop of 1"),
        ((20, 20, 1e5, 1e5), r"expected a crop of 1 to 32767 pixels, found 500000"),
        ((200, 20, 10, 10), r"expected a crop that meets the frame of 64 x 48, found x 175 to 225"),
        ((20, -26, 10, 10), r"expected a crop that meets"),
    ):
        with pytest.raises(FrameError, match=message):
            cut(frame, place[:2], place[2:], ImageConfig(size=32))


GEOMETRIES = (
    PairsConfig(),
    PairsConfig.model_validate({"ref": {"size": 128, "area_factor": 2}, "test": {"size": 256, "area_factor": 4}}),
)


# least side, spread of the log size, shift: what keeps the target inside the crop
@pytest.mark.parametrize(("pairs", "least", "spread", "shift"), [(GEOMETRIES[0], 20, 0.2, 20), (GEOMETRIES[1], 45, 0.1, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_a_rectangle_drawn_at_the_annotated_box_lies_at_the_crop_box(seed, pairs, least, spread, shift):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        x, y, w, h = rng.integers(60, 120), rng.integers(60, 120), rng.integers(least, 60), rng.integers(least, 60)
        frame = np.zeros((300, 300, 3), np.uint8)
        frame[y : y + h, x : x + w] = 255
        box = np.tile(np.array([x, y, w, h], float), (1, 2, 1))
        size = box[..., 2:] * np.exp(rng.normal(0, spread, (1, 2, 2)))
        center = box[..., :2] + box[..., 2:] / 2 + rng.uniform(-shift, shift, (1, 2, 2))
        boxes = to_crop(box, center, size, pairs)
        for index, image in enumerate(pairs.images):
            crop, (_, _, side) = cut(frame, tuple(center[0, index]), tuple(size[0, index]), image)
            assert crop.shape == (image.size, image.size, 3) and side == crop_side(size, pairs)[0, index]
            scale = image.size / side
            mask = crop[..., 0] > 127
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            expected = boxes[0, index]
            # a pixel of the reference's convention: (S - 1) / 2 for the centre and x1 rounded, half a frame pixel each
            tolerance = 1 + scale
            assert abs(columns[0] - expected[0]) <= tolerance
            assert abs(rows[0] - expected[1]) <= tolerance
            assert abs(columns[-1] + 1 - columns[0] - expected[2]) <= 1
            assert abs(rows[-1] + 1 - rows[0] - expected[3]) <= 1


@pytest.mark.parametrize("pairs", GEOMETRIES)
def test_crop_boxes_follow_the_formula(pairs):
    box, center, size = np.array([[100.0, 50, 30, 20]]), np.array([[120.3, 55.9]]), np.array([[25.0, 16]])
    both, centers, sizes = (np.tile(value, (1, 2, 1)) for value in (box, center, size))
    boxes = to_crop(both, centers, sizes, pairs)
    for index, (crop, factor) in enumerate((image.size, image.area_factor) for image in pairs.images):
        side = math.ceil(math.sqrt(25 * 16) * factor)
        middle = ((crop - 1) / 2 + (115 - 120.3) * crop / side, (crop - 1) / 2 + (60 - 55.9) * crop / side)
        expected = [middle[0] - 15 * crop / side, middle[1] - 10 * crop / side, 30 * crop / side, 20 * crop / side]
        np.testing.assert_allclose(boxes[0, index], expected, rtol=1e-12)


def test_encode_keeps_the_picture():
    crop = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8), (64, 64))
    back = cv2.imdecode(np.frombuffer(encode(crop, 95), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(back.astype(int) - crop).mean() < 3
    assert len(encode(crop, 30)) < len(encode(crop, 95))


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_frames_that_cannot_be_read_name_their_file(tmp_path, picture):
    assert cv2.imwrite(str(tmp_path / "a.jpg"), picture)
    assert cv2.imwrite(str(tmp_path / "a.png"), picture)
    whole, png = (tmp_path / "a.jpg").read_bytes(), (tmp_path / "a.png").read_bytes()
    for name, content, message in (
        ("empty", b"", "found an empty file at "),
        ("cut", whole[:-100], r"found a truncated file at .*cut.jpg \(\d+ bytes\)"),
        ("header", whole[:20], "found a truncated file|expected an image"),
        ("cutpng", png[:-40], "found a truncated file at "),
        ("text", b"hello", "expected an image, found none in "),
    ):
        (tmp_path / f"{name}.jpg").write_bytes(content)
        with pytest.raises(FrameError, match=message) as error:
            read_frame(tmp_path / f"{name}.jpg")
        assert f"{name}.jpg" in str(error.value)
    with pytest.raises(FrameError, match=r"found none at .*no.jpg \(No such file"):
        read_frame(tmp_path / "no.jpg")
    np.testing.assert_array_equal(read_frame(tmp_path / "a.png"), picture)


def test_truncation_looks_behind_previews_and_trailing_bytes(picture):
    whole = encode(picture, 90)
    preview = encode(picture[:8, :8], 90)
    # a preview in an application segment, as EXIF has it
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    with_preview = whole[:2] + segment + whole[2:]
    assert not truncated(whole)
    assert not truncated(whole + b"\0" * 30)
    assert not truncated(with_preview)
    assert truncated(with_preview[:-200])
    assert truncated(whole[:-1])


def test_grey_and_rotated_files_become_stored_pixels(tmp_path, picture):
    assert cv2.imwrite(str(tmp_path / "grey.png"), picture[..., 0])
    assert read_frame(tmp_path / "grey.png").shape == (40, 60, 3)
    jpeg = encode(picture, 90)
    # EXIF with orientation 6 (turn right): a TIFF header, one directory entry 0x0112 of type SHORT
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:])
    assert cv2.imread(str(tmp_path / "turned.jpg")).shape == (60, 40, 3)
    assert read_frame(tmp_path / "turned.jpg").shape == (40, 60, 3)
