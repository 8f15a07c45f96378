"""From a head's predictions to boxes: ATOM climbs the gradient of the predicted IoU (arXiv:1811.07628), DRNet's numbers are the box.

Letters: B pairs, N boxes a pair, D the head's width. Boxes (x, y, w, h), top-left corner, crop pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.ascent import Ascent, Pair, lines_of
from models.tracker import HEAD_LAYERS, Tracker

MOST_GROWTH = math.log(1000 / 16)
"""Of the log size that DRNet's numbers may add: no crop has a box sixty times as large as its proposal."""
PUBLISHED_TARGET = 288 / 5
"""Side of a target in the published crops, in pixels."""


@torch.no_grad()
def climb(ascent: Callable[[Pair, Pair, Tensor], Pair], modulation: Pair, lines: Pair, boxes: Tensor, steps: int, step: float) -> Pair:
    """boxes (B, N, 4) after that many steps of box += step * gradient of the prediction * (w, h, w, h); and their predictions (B, N).

    ascent: an `Ascent`, modulation and lines as it takes them; step in pixels (see `step_pixels`). The predictions are those at the last
    gradient, one step before the boxes that are returned, as in the published tracker; with steps = 0 those of the boxes.
    """
    predicted, gradient = ascent(modulation, lines, boxes)
    for number in range(steps):
        if number:
            predicted, gradient = ascent(modulation, lines, boxes)
        sides = boxes[..., 2:]
        boxes = boxes + step * gradient * torch.cat([sides, sides], dim=-1)
    return boxes, predicted


@torch.no_grad()
def refine(tracker: Tracker, images: tuple[Tensor, Tensor], ref_box: Tensor, boxes: Tensor, steps: int, step: float) -> Tensor:
    """Boxes (B, N, 4) of the test images, refined as a tracker would: the ascent (ATOM) or the box that the numbers make (DRNet).

    images: ref and test (B, 3, S, S), normalised; ref_box (B, 4) the target in ref; step in pixels. the tracker is in eval mode.
    """
    ref, test = (tracker.features(image, HEAD_LAYERS) for image in images)
    head, modulation = tracker.bb_regressor, tracker.modulation(ref, ref_box)
    maps = head.encode(test["layer2"], test["layer3"])
    if tracker.numbers == 4:
        return boxes_of_numbers(head.predict(modulation, maps, boxes), boxes)
    return climb(Ascent(head), modulation, lines_of(maps), boxes, steps, step)[0]


def step_pixels(step: float, size: int, area_factor: float) -> float:
    """The `step` of `climb` in crops of that size and area factor: the published length is 1 pixel for a target of 57.6 pixels.

    The gradient falls as the target grows and the step should rise with it, so it is stated in sides of the target.
    """
    return step * size / area_factor / PUBLISHED_TARGET


def boxes_of_numbers(numbers: Tensor, proposals: Tensor) -> Tensor:
    """The boxes that DRNet's numbers (B, N, 4) make of proposals (B, N, 4): the inverse of its label."""
    sides = proposals[..., 2:]
    centres = proposals[..., :2] + sides / 2 + numbers[..., :2] * sides
    grown = sides * numbers[..., 2:].clamp(max=MOST_GROWTH).exp()
    return torch.cat([centres - grown / 2, grown], dim=-1)
