"""Film strips: frames of a video side by side, with the true box and those of trackers. Pictures are (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from pairs.frames import FrameError
from tracking.sequences import Video

INKS = ((230, 60, 50), (60, 130, 240), (245, 160, 30), (190, 90, 200), (40, 190, 190), (150, 110, 70), (120, 120, 120), (255, 120, 160))
"""(R, G, B) of trackers, in their order."""
TRUTH, PAPER, INK = (60, 210, 90), (250, 250, 250), (32, 32, 32)
FRAMES, HEIGHT, LINE = 8, 150, 20  # of a strip: frames; pixels of a frame and of a line of text
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def strip(video: Video, boxes: Mapping[str, np.ndarray], caption: str = "", frames: int = FRAMES) -> np.ndarray:
    """Evenly spaced frames of a video in a row, each with the true box (green) and trackers' boxes (n, 4) in their colours."""
    numbers = np.unique(np.linspace(0, len(video.frames) - 1, frames).round().astype(int)).tolist()
    pictures = [
        _frame(image, number, video.truth, boxes, HEIGHT) for number, image in zip(numbers, video.frames.take(numbers), strict=True)
    ]
    body = np.concatenate([picture for picture in pictures if picture is not None], axis=1)
    legend = [("truth", TRUTH), *zip(boxes, INKS * (len(boxes) // len(INKS) + 1), strict=False)]
    return np.concatenate([_words([(caption, INK), *legend], body.shape[1]), body])


def stacked(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Strips one below the other, each as wide as the widest."""
    width = max(picture.shape[1] for picture in strips)
    return np.concatenate([np.pad(one, ((0, 6), (0, width - one.shape[1]), (0, 0)), constant_values=PAPER[0]) for one in strips])


def draw_box(image: np.ndarray, box: np.ndarray | Sequence[float], ink: tuple[int, int, int], thickness: int = 2) -> None:
    """Draws a box (x, y, w, h) into an image. Pixel j is centred at j."""
    x, y, w, h = (float(np.clip(value, -(2**14), 2**14)) for value in box)
    cv2.rectangle(image, (round(x), round(y)), (round(x + w), round(y + h)), ink, thickness, cv2.LINE_AA)


def _frame(
    image: np.ndarray | FrameError, number: int, truth: np.ndarray, boxes: Mapping[str, np.ndarray], height: int
) -> np.ndarray | None:
    """One frame at a height, with its number; None where it cannot be read."""
    if isinstance(image, FrameError):
        return None
    scale = height / image.shape[0]
    small = cv2.resize(image, (max(1, round(image.shape[1] * scale)), height), interpolation=cv2.INTER_AREA)
    if number < len(truth) and truth[number, 2] > 0:
        draw_box(small, truth[number] * scale, TRUTH, 2)
    for place, of_one in enumerate(boxes.values()):
        draw_box(small, of_one[number] * scale, INKS[place % len(INKS)], 1)
    write(small, str(number + 1), (4, height - 6), (255, 255, 255))
    return small


def write(image: np.ndarray, text: str, place: tuple[int, int], ink: tuple[int, int, int], scale: float = 0.42) -> int:
    """Writes into an image, with a dark edge where the ink is light; the width of the text in pixels."""
    if min(ink) > 128:
        cv2.putText(image, text, place, _FONT, scale, INK, 3, cv2.LINE_AA)
    cv2.putText(image, text, place, _FONT, scale, ink, 1, cv2.LINE_AA)
    return int(cv2.getTextSize(text, _FONT, scale, 1)[0][0])


def _words(words: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> np.ndarray:
    """Coloured words on lines as wide as a picture."""
    lines, left = [np.full((LINE, width, 3), PAPER, np.uint8)], 4
    for text, ink in words:
        if not text:
            continue
        if left > 4 and left + cv2.getTextSize(text, _FONT, 0.42, 1)[0][0] > width:
            lines, left = [*lines, np.full((LINE, width, 3), PAPER, np.uint8)], 4
        cv2.putText(lines[-1], text, (left, LINE - 6), _FONT, 0.42, ink, 1, cv2.LINE_AA)
        left += cv2.getTextSize(text, _FONT, 0.42, 1)[0][0] + 14
    return np.concatenate(lines)
