"""A network that is never wrong: what is left of the error is the tracker's own.

It sees crops alone, so a crop that is cut elsewhere than the tracker believes, a box that is off by half a pixel, or a step that leads away
shows as a box that is off in the frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from configs.tracking import TrackingConfig
from pairs.boxes import box_iou
from tracking.network import Features, Vectors
from tracking.online import OnlineTracker
from tracking.refining import RefinementOnly

FRAMES = 14
STRIDES = {"layer2": 8, "layer3": 16}


def frame(box: np.ndarray, scale: int) -> np.ndarray:
    """A red rectangle with edges between pixels on grey; box (4,) in frame pixels, where pixel j covers j ... j + 1."""
    y, x = (np.arange(length * scale)[:, None] for length in (160, 200))
    rows, columns = (
        np.clip(np.minimum(at + 1, low + side) - np.maximum(at, low), 0, 1)[:, 0]
        for at, low, side in ((y, box[1], box[3]), (x, box[0], box[2]))
    )
    cover = (rows[:, None] * columns)[..., None]
    return np.rint(cover * np.array([220, 60, 60]) + (1 - cover) * 100).astype(np.uint8)


def truths() -> np.ndarray:
    """Goes to and fro by fractions of a pixel and grows by half in all: (FRAMES, 4)."""
    t = np.arange(FRAMES)
    sides = np.stack([34 * 1.03**t, 26 * 1.03**t], 1)
    centers = np.stack([100 + 7.3 * np.sin(t * 0.9), 80 + 5.2 * np.cos(t * 0.9)], 1)
    return np.concatenate([centers - sides / 2, sides], 1)


class Perfect:
    """Knows red: its features are the share of red in a cell, the IoU that it climbs is that with the red rectangle in the crop."""

    architecture, device = "atom_resnet18tiny", torch.device("cpu")

    def features(self, images: np.ndarray, layers: Sequence[str]) -> Features:
        red = torch.from_numpy((images[..., 0].astype(np.float32) - images[..., 1]) / 160)[:, None]
        maps = {}
        for layer in layers:
            stride = STRIDES[layer]
            # cell i lies at i * stride
            cells = torch.nn.functional.avg_pool2d(red, stride + 1, stride, stride // 2, count_include_pad=False)[
                ..., : -(-red.shape[-1] // stride), : -(-red.shape[-1] // stride)
            ]
            maps[layer] = torch.cat([cells, 1 - cells, torch.roll(cells, 1, -1), torch.roll(cells, 1, -2)], 1)
        return maps | {"red": red}

    def modulation(self, features: Features, box: np.ndarray) -> Vectors:
        found = box_of(features["red"])
        assert box_iou(box[None], found[None])[0] > 0.95, "the first box, in the crop, is where the target is there"
        return torch.zeros(1, 1), torch.zeros(1, 1)

    def climb(self, vectors: Vectors, features: Features, boxes: np.ndarray, steps: int, step: float) -> tuple[np.ndarray, np.ndarray]:
        truth = box_of(features["red"])
        predicted = np.array([])
        for _ in range(steps):
            predicted, gradient = slope(boxes, truth)
            boxes = boxes + step * gradient * boxes[:, [2, 3, 2, 3]]
        return boxes, predicted * 2 - 1

    def direct(self, vectors: Vectors, features: Features, boxes: np.ndarray) -> np.ndarray:
        raise NotImplementedError("of DRNet")


def box_of(red: torch.Tensor) -> np.ndarray:
    """The rectangle in a crop: its mean and its variance on each axis say where it is; the pixels add 1 / 12 of a variance."""
    share = red[0, 0].double().clamp(min=0).numpy()
    places = np.arange(len(share))
    found = []
    for axis in (0, 1):
        weight = share.sum(axis) / share.sum()
        middle = (weight * places).sum()
        side = np.sqrt(12 * ((weight * (places - middle) ** 2).sum() - 1 / 12))
        found.append((middle - side / 2, side))
    return np.array([found[0][0], found[1][0], found[0][1], found[1][1]])


def slope(boxes: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU of boxes (N, 4) with the truth, and twice its gradient, as of a prediction in -1 ... 1."""
    small = 1e-4
    moves = small * np.eye(4)
    ahead, behind = (box_iou((boxes[:, None] + sign * moves).reshape(-1, 4), np.tile(truth, (4 * len(boxes), 1))) for sign in (1, -1))
    return box_iou(boxes, np.tile(truth, (len(boxes), 1))), ((ahead - behind) / small).reshape(-1, 4)


@pytest.mark.parametrize("kind", [OnlineTracker, RefinementOnly])
@pytest.mark.parametrize(("reading", "scale"), [("resize", 1), ("subsample", 3)])
def test_a_perfect_network_keeps_the_target(kind: type[OnlineTracker], reading: str, scale: int):
    """scale: of the frames; three pixels of them are one of the crop's, and subsampling takes every third."""
    section = TrackingConfig.model_validate(
        {
            "size": 144,
            "reading": reading,
            "classifier": {"layer": "layer2", "augment": False},
            "refinement": {"step": 0.4, "steps": 12, "boxes": 4},
        }
    )
    network, boxes = Perfect(), truths() * scale
    tracker = kind(network, network, section)
    tracker.init(frame(boxes[0], scale), boxes[0])
    found = np.array([tracker.update(frame(box, scale)).box for box in boxes[1:]]) / scale
    wanted = boxes[1:] / scale
    off = (found[:, :2] + found[:, 2:] / 2 - wanted[:, :2] - wanted[:, 2:] / 2).mean(0)
    assert box_iou(found, wanted).mean() > 0.9
    assert np.abs(off).max() < 0.3, "half a pixel is a fault of the geometry"
    assert abs(np.log(found[:, 2:] / wanted[:, 2:]).mean()) < 0.03


def test_the_size_follows_at_its_rate_and_the_centre_at_once():
    truth = truths()[0]
    larger = np.concatenate([truth[:2] - truth[2:] * 0.1, truth[2:] * 1.2]) + np.array([2, 1, 0, 0])

    def found(rate: float) -> np.ndarray:
        refinement = {"step": 0.4, "boxes": 4, "size_rate": rate}
        section = {"size": 144, "classifier": {"layer": "layer2", "augment": False}, "refinement": refinement}
        network = Perfect()
        tracker = RefinementOnly(network, network, TrackingConfig.model_validate(section))
        tracker.init(frame(truth, 1), truth)
        return np.array(tracker.update(frame(larger, 1)).box)

    whole = found(1)
    assert np.abs(np.log(whole[2:] / truth[2:])).max() > 0.03
    for rate in (0, 0.3):
        part = found(rate)
        np.testing.assert_allclose(np.log(part[2:] / truth[2:]), rate * np.log(whole[2:] / truth[2:]), atol=1e-9)
        np.testing.assert_allclose(part[:2] + part[2:] / 2, whole[:2] + whole[2:] / 2, atol=1e-9)
