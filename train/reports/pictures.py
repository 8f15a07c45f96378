"""Pairs as a picture: the ref crop with its target, the test crop with the target, the student's answer and the teacher's.

Letters: B pairs, N proposals, S side of a crop (of the ref or of the test image). Boxes (x, y, w, h), pixels of their crop.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from pairs.batch import Batch
from pairs.boxes import box_iou
from pairs.decode.decoder import MEAN, STD
from train.evaluate import chosen_boxes

# (R, G, B)
TARGET, STUDENT, TEACHER, INK, PAPER = (64, 220, 96), (255, 80, 64), (80, 160, 255), (32, 32, 32), (250, 250, 250)
LINE = 22  # pixels of a line of text
GAP = 6
SIDE = 288  # pixels that a crop is drawn with
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(batch: Batch, student: Tensor, teacher: Tensor | None, count: int) -> np.ndarray:
    """The first `count` pairs of a batch, as an (H, W, 3) uint8 RGB picture: one pair a row of two crops, two pairs side by side.

    student, teacher: predictions (B, N) or (B, N, 4) for the proposals.
    """
    answers = {"student": student} | ({"teacher": teacher} if teacher is not None else {})
    tiles = [_tile(batch, index, answers) for index in range(min(count, len(batch.boxes)))]
    columns = min(2, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[first : first + columns], axis=1) for first in range(0, len(tiles), columns)]
    body = np.concatenate(rows)
    return np.concatenate([_legend(body.shape[1], teacher is not None), body])


def _tile(batch: Batch, index: int, answers: dict[str, Tensor]) -> np.ndarray:
    """One pair of a batch; answers: who -> predictions for the batch."""
    pair = slice(index, index + 1)
    ref, test, boxes = _image(batch.ref[index]), _image(batch.test[index]), batch.boxes.take(pair)
    _box(ref, boxes.ref_box[0], SIDE / boxes.ref.size, TARGET)
    scale = SIDE / boxes.test.size
    _box(test, boxes.test_box[0], scale, TARGET)
    words: list[str] = []
    for name, prediction in answers.items():
        chosen = chosen_boxes(prediction[pair], boxes)
        # the student first and thick, so that a teacher of the same choice is seen on top
        _box(test, chosen[0], scale, STUDENT if name == "student" else TEACHER, thickness=2 if name == "student" else 1)
        overlap = float(box_iou(chosen, boxes.test_box)[0])
        guess = f" (says {float(prediction[index].max() + 1) / 2:.2f})" if prediction.ndim == 2 else ""
        words.append(f"{name}: IoU {overlap:.2f}{guess}")
    tile = np.full((SIDE + LINE + 2 * GAP, 2 * SIDE + 3 * GAP, 3), PAPER, np.uint8)
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
