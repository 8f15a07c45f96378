"""Pairs from still images: each frame of a pair is the image under a random affine map, blur and light of its own (`SynthSource`), or
the masked object of one image on the background of another, at a place of its own (`BlendSource`).

Every random number is a uniform one that `sampling.draw` hands in, so a frame is a pure function of the pair's number. Boxes are
(x, y, w, h), top-left corner, in pixels of the made frame, where pixel i covers [i, i + 1).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from configs.errors import RequestError
from pairs.annotation import unpack_name
from pairs.frames import FrameError
from precompute.datasets.dataset import FileSource
from precompute.datasets.table import Outlines, Table

# raised whenever the same numbers make another frame
VERSION = 1
SCALE, ASPECT, SHEAR, TURN = 0.35, 0.15, 0.15, 0.45  # log, log, ratio, radians: the largest of each
BLUR_PROBABILITY, BLUR = 0.3, 1.5  # Gaussian sigma up to this, pixels
GAIN, CONTRAST, TINT = 0.2, 0.2, 0.06  # log, ratio, ratio of a colour channel
BLEND_SIDES = (0.06, 0.4)  # sqrt(w * h) of a pasted object, in sqrt(W * H) of its frame
SMALLEST = 24.0  # pixels sqrt(w * h) below which an object is not worth pasting
_AFFINE, _LIGHT = 4, 7


def single_frames(name: str, table: Table) -> Table:
    """Every visible frame of a video table as a still image of its own, named `<sequence>/<frame from 0>`, outlined by its box.

    A table with outlines holds still images already.
    """
    if table.outlines is not None:
        return table
    rows = np.flatnonzero(table.visible)
    sequence = np.searchsorted(table.offsets, rows, side="right") - 1
    frame = (rows - table.offsets[sequence]).tolist()
    count = len(rows)
    return replace(
        table,
        sequences=[f"{table.sequences[s]}/{f}" for s, f in zip(sequence, frame, strict=True)],
        folders=[table.folders[s] for s in sequence],
        frames=[unpack_name(table.frames[s], f) for s, f in zip(sequence, frame, strict=True)],
        offsets=np.arange(count + 1, dtype=np.int64),
        boxes=table.boxes[rows],
        visible=np.ones(count, bool),
        outlines=Outlines.of([[]] * count, np.zeros((count, 2), np.int32)),
        digests=None if table.digests is None else table.digests[rows],
    )


def pasteable(name: str, table: Table) -> Table:
    """The objects with an outline that are large enough to be pasted. RequestError: fewer than two images with such objects."""
    outlined = np.diff(table.outlines.masks) > 0 if table.outlines is not None else np.zeros(len(table.sequences), bool)
    large = np.sqrt(table.boxes[:, 2:].clip(0).prod(1)) >= SMALLEST
    chosen = table.take(np.flatnonzero(outlined & large & table.visible))
    if len(set(chosen.frames)) < 2:
        raise RequestError(
            f"dataset {name}: expected outlined objects of at least {SMALLEST:g} pixels on two images or more,"
            f" found {len(chosen.sequences)} on {len(set(chosen.frames))}; use kind coco_synth, which needs boxes only"
        )
    return chosen


class _StillSource:
    """What frames are made from: still images with an outlined object each."""

    def __init__(self, files: FileSource, table: Table) -> None:
        """table: as the kind's `prepare` gives it."""
        assert table.outlines is not None
        self.files, self.boxes, self.outlines = files, table.boxes, table.outlines

    def path(self, sequence: int, frame: int) -> Path:
        """The still image that the object is taken from."""
        return self.files.path(sequence, frame)

    def rings(self, sequence: int) -> list[np.ndarray]:
        """The rings (n, 2) float64 of the outline; without one, the corners of the box."""
        x, y, w, h = self.boxes[sequence].tolist()
        return self.outlines.rings_of(sequence) or [np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])]


class SynthSource(_StillSource):
    """A still image under an affine map about its target. The canvas is the image's, grown where the mapped target would leave it."""

    numbers = _AFFINE + _LIGHT
    shared = 0

    def __init__(self, files: FileSource, table: Table) -> None:
        super().__init__(files, table)
        self.salt = f"synth {VERSION} {self.outlines.digest()}"

    def box(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray:
        """The box (4,) of the mapped outline."""
        return self._mapped(sequence, random)[1]

    def load(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray:
        """The mapped image, its border replicated, under blur and light."""
        image = self.files.load(sequence, frame, random)
        matrix, box = self._mapped(sequence, random)
        size = (max(image.shape[1], int(np.ceil(box[0] + box[2]))), max(image.shape[0], int(np.ceil(box[1] + box[3]))))
        if max(size) >= 2**15:
            path = self.path(sequence, frame)
            raise FrameError(f"{path}: expected a canvas below 32,768 pixels, found {size[0]} x {size[1]}; check the annotated box")
        return light(_warp(image, matrix, size), random[_AFFINE:])

    def _mapped(self, sequence: int, random: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The affine map (2, 3) from still to frame, and the box (4,)."""
        linear = affine(random[:_AFFINE])
        points = np.concatenate(self.rings(sequence))
        center = (points.min(axis=0) + points.max(axis=0)) / 2
        shift = center - linear @ center
        mapped = points @ linear.T + shift
        # nothing of the target left of or above the canvas
        back = np.maximum(-mapped.min(axis=0), 0)
        return np.column_stack([linear, shift + back]), _bounds(mapped + back)


class BlendSource(_StillSource):
    """The object of one still image on another image, which both frames of a pair share; place, map, blur and light are a frame's own."""

    shared = 1  # the background
    numbers = shared + 2 + 2 * _AFFINE + _LIGHT

    def __init__(self, files: FileSource, table: Table) -> None:
        super().__init__(files, table)
        self.sizes = self.outlines.size
        sizes = hashlib.sha256(np.ascontiguousarray(self.sizes, "<i4").tobytes()).hexdigest()
        self.salt = f"blend {VERSION} {self.outlines.digest()} {sizes}"
        paths = np.array([f"{folder}/{name}" for folder, name in zip(files.folders, files.names, strict=True)])
        # one sequence of each image, and the place of each sequence's image among them
        _, self.firsts, self.image = np.unique(paths, return_index=True, return_inverse=True)

    def box(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray:
        """The box (4,) of the pasted outline."""
        return self._placed(sequence, random)[2]

    def load(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray:
        """Background, object with a soft edge, blur and light."""
        background, matrix, _ = self._placed(sequence, random)
        width, height = self.sizes[background].tolist()
        behind = self.files.load(background, 0, random)
        middle = np.array([width, height]) / 2
        turned = affine(random[3 + _AFFINE : 3 + 2 * _AFFINE])
        behind = _warp(behind, np.column_stack([turned, middle - turned @ middle]), (width, height), cv2.BORDER_REFLECT_101)
        pasted = _warp(self.files.load(sequence, 0, random), matrix, (width, height))
        alpha = np.zeros((height, width), np.uint8)
        for ring in self.rings(sequence):
            # fillPoly counts pixel centres, in sixteenths here
            points = ring @ matrix[:, :2].T + matrix[:, 2] - 0.5
            cv2.fillPoly(alpha, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        part = cv2.GaussianBlur(alpha, (3, 3), 0.7)[..., None].astype(np.float32) / 255
        mixed = behind * (1 - part) + pasted * part
        return light(np.rint(mixed).astype(np.uint8), random[3 + 2 * _AFFINE :])

    def _placed(self, sequence: int, random: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """The sequence that lends the background (of another image), the affine map (2, 3) of the object, and its box (4,)."""
        others = len(self.firsts) - 1
        step = 1 + min(int(random[0] * others), others - 1)
        background = int(self.firsts[(int(self.image[sequence]) + step) % len(self.firsts)])
        size = self.sizes[background].astype(np.float64)
        points = np.concatenate(self.rings(sequence))
        linear = affine(random[3 : 3 + _AFFINE])
        side = np.sqrt(np.ptp(points @ linear.T, axis=0).prod())
        wanted = np.sqrt(size.prod()) * np.clip(side / np.sqrt(size.prod()), *BLEND_SIDES)
        linear = linear * wanted / side
        mapped = points @ linear.T
        extent = np.ptp(mapped, axis=0)
        # a long object that fits in no other way is made smaller
        fit = min(1.0, float((0.9 * size / extent).min()))
        linear, mapped, extent = linear * fit, mapped * fit, extent * fit
        shift = random[1:3] * (size - extent) - mapped.min(axis=0)
        return background, np.column_stack([linear, shift]), _bounds(mapped + shift)


def affine(random: np.ndarray) -> np.ndarray:
    """The linear map (2, 2) of scale, aspect, shear and turn from four uniform numbers."""
    scale, aspect, shear, turn = ((2 * random - 1) * (SCALE, ASPECT, SHEAR, TURN)).tolist()
    cos, sin = np.cos(turn), np.sin(turn)
    shape = np.array([[np.exp(aspect / 2), shear], [0.0, np.exp(-aspect / 2)]])
    return np.exp(scale) * np.array([[cos, -sin], [sin, cos]]) @ shape


def light(image: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Blur, gain, contrast and tint of an image (H, W, 3) uint8, from seven uniform numbers."""
    if random[0] < BLUR_PROBABILITY:
        image = cv2.GaussianBlur(image, (0, 0), 0.3 + (BLUR - 0.3) * float(random[1]))
    gain = np.exp(GAIN * (2 * random[2] - 1)) * (1 + TINT * (2 * random[4:7] - 1))
    contrast = 1 + CONTRAST * (2 * random[3] - 1)
    # 8-bit values: a table of 256 does for every pixel
    table = np.clip(((np.arange(256)[:, None] - 128) * contrast + 128) * gain, 0, 255)
    return cv2.LUT(image, np.rint(table).astype(np.uint8)[:, None, :])


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """The image under a map of positions (pixel i covers [i, i + 1)) on a canvas of size (w, h)."""
    centers = matrix.copy()
    # OpenCV counts pixel centres
    centers[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(image, centers, size, flags=cv2.INTER_LINEAR, borderMode=border)


def _bounds(points: np.ndarray) -> np.ndarray:
    """The box (4,) around points (n, 2)."""
    low = points.min(axis=0)
    return np.concatenate([low, points.max(axis=0) - low])
