"""Pairs as a picture: the ref crop with its target, the test crop with the target, the student's answer and the teacher's.

Letters: P pairs, N proposals, S side of the crops. Boxes (x, y, w, h), crop pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from kdlosses import Pairs
from models.boxes import box_iou
from models.preprocess import MEAN, STD
from train.evaluate import Sample, chosen_boxes

# (R, G, B)
TARGET, STUDENT, TEACHER, INK, PAPER = (64, 220, 96), (255, 80, 64), (80, 160, 255), (32, 32, 32), (250, 250, 250)
LINE = 22  # pixels of a line of text
GAP = 6
SIDE = 288  # pixels that a crop is drawn with
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(sample: Sample) -> np.ndarray:
    """An (H, W, 3) uint8 RGB picture: one pair a row of two crops, two pairs side by side, a legend on top."""
    tiles = [_tile(sample, index) for index in range(len(sample.ref))]
    columns = min(2, len(tiles))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[first : first + columns], axis=1) for first in range(0, len(tiles), columns)]
    body = np.concatenate(rows)
    return np.concatenate([_legend(body.shape[1], sample.teacher is not None), body])


def _tile(sample: Sample, index: int) -> np.ndarray:
    pairs = sample.pairs
    size = sample.ref.shape[-1]
    scale = SIDE / size
    one = slice(index, index + 1)
    alone = Pairs(pairs.ref_box[one], pairs.test_box[one], pairs.proposals[one], pairs.crop_size)
    ref, test = _image(sample.ref[index]), _image(sample.test[index])
    truth = pairs.test_box[one]
    _box(ref, pairs.ref_box[index], scale, TARGET)
    _box(test, pairs.test_box[index], scale, TARGET)
    answers = [("student", STUDENT, sample.student)] + ([("teacher", TEACHER, sample.teacher)] if sample.teacher is not None else [])
    words: list[str] = []
    for name, colour, prediction in answers:
        chosen = chosen_boxes(prediction[one], alone)
        # the student first and thick, so that a teacher of the same choice is seen on top
        _box(test, chosen[0], scale, colour, thickness=2 if name == "student" else 1)
        overlap = float(box_iou(chosen, truth)[0])
        guess = f" (says {float(prediction[index].max() + 1) / 2:.2f})" if prediction.ndim == 2 else ""
        words.append(f"{name}: IoU {overlap:.2f}{guess}")
    width = 2 * SIDE + 3 * GAP
    tile = np.full((SIDE + LINE + 2 * GAP, width, 3), PAPER, np.uint8)
    tile[LINE : LINE + SIDE, GAP : GAP + SIDE] = ref
    tile[LINE : LINE + SIDE, 2 * GAP + SIDE : 2 * GAP + 2 * SIDE] = test
    cv2.putText(tile, "   ".join(words), (GAP, LINE - 7), FONT, 0.45, INK, 1, cv2.LINE_AA)
    return tile


def _image(normalised: Tensor) -> np.ndarray:
    """(3, S, S) normalised -> (SIDE, SIDE, 3) uint8 RGB."""
    values = normalised.detach().float().cpu() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    image = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR if image.shape[0] != SIDE else cv2.INTER_NEAREST)


def _box(image: np.ndarray, box: Tensor, scale: float, colour: tuple[int, int, int], thickness: int = 2) -> None:
    x, y, w, h = (float(value) * scale for value in box)
    cv2.rectangle(image, (round(x), round(y)), (round(x + w), round(y + h)), colour, thickness)


def _legend(width: int, teacher: bool) -> np.ndarray:
    strip = np.full((LINE + GAP, width, 3), PAPER, np.uint8)
    x = GAP
    for word, colour in (("target", TARGET), ("student's choice", STUDENT), *([("teacher's choice", TEACHER)] if teacher else [])):
        cv2.rectangle(strip, (x, 8), (x + 14, 20), colour, -1)
        cv2.putText(strip, word, (x + 20, 19), FONT, 0.45, INK, 1, cv2.LINE_AA)
        x += 40 + cv2.getTextSize(word, FONT, 0.45, 1)[0][0]
    cv2.putText(strip, "ref | test", (x, 19), FONT, 0.45, INK, 1, cv2.LINE_AA)
    return strip
