"""What an online tracker asks of a network, and a checkpoint that answers it in PyTorch.

Letters: B images, N boxes, C channels, H rows, W columns, D width of the head. Boxes (x, y, w, h), crop pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.convert import load_tracker
from models.inference import Parts
from models.refine import boxes_of_numbers, climb
from models.tracker import HEAD_LAYERS
from pairs.decode.decoder import MEAN, STD

Features = dict[str, Tensor]
Vectors = tuple[Tensor, Tensor]


class Network(Protocol):
    """Runs a network on crops."""

    architecture: str
    device: torch.device

    def features(self, images: np.ndarray, layers: Sequence[str]) -> Features:
        """images (B, S, S, 3) uint8 RGB -> layer -> (B, C, H, W) float32."""

    def modulation(self, features: Features, box: np.ndarray) -> Vectors:
        """Features of one image (layer2, layer3) and the target's box (4,) in it -> the vectors (1, D) of the target."""

    def climb(self, vectors: Vectors, features: Features, boxes: np.ndarray, steps: int, step: float) -> tuple[np.ndarray, np.ndarray]:
        """ATOM: boxes (N, 4) in one image -> (N, 4) and predictions (N,), see `models.refine.climb`."""

    def direct(self, vectors: Vectors, features: Features, boxes: np.ndarray) -> np.ndarray:
        """DRNet: boxes (N, 4) in one image -> the boxes (N, 4) that its numbers make of them."""


class TorchNetwork:
    """A checkpoint in PyTorch."""

    def __init__(self, checkpoint: Path, device: torch.device) -> None:
        self.tracker, _ = load_tracker(checkpoint)
        # images come with their channels last, and weights would be put so in every frame
        self.tracker.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self.parts, self.architecture, self.device = Parts(self.tracker), self.tracker.architecture, device
        self.mean, self.scale = (torch.from_numpy(row).to(device)[:, None, None] for row in (MEAN * 255, 1 / (STD * 255)))

    @torch.no_grad()
    def features(self, images: np.ndarray, layers: Sequence[str]) -> Features:
        pixels = torch.from_numpy(images).to(self.device)
        if set(layers) <= set(HEAD_LAYERS):
            return dict(zip(HEAD_LAYERS, self.parts.head_maps(pixels), strict=True))
        return self.tracker.features((pixels.permute(0, 3, 1, 2).float() - self.mean) * self.scale, layers)

    @torch.no_grad()
    def modulation(self, features: Features, box: np.ndarray) -> Vectors:
        return self.tracker.modulation(features, self._boxes(box[None])[0])

    @torch.no_grad()
    def climb(self, vectors: Vectors, features: Features, boxes: np.ndarray, steps: int, step: float) -> tuple[np.ndarray, np.ndarray]:
        lines = self.parts.lines(features["layer2"], features["layer3"])
        climbed, predicted = climb(self.parts.ascent, vectors, lines, self._boxes(boxes), steps, step)
        return climbed[0].double().cpu().numpy(), predicted[0].double().cpu().numpy()

    @torch.no_grad()
    def direct(self, vectors: Vectors, features: Features, boxes: np.ndarray) -> np.ndarray:
        start, head = self._boxes(boxes), self.tracker.bb_regressor
        numbers = head.predict(vectors, head.encode(features["layer2"], features["layer3"]), start)
        return boxes_of_numbers(numbers, start)[0].double().cpu().numpy()

    def _boxes(self, boxes: np.ndarray) -> Tensor:
        """(N, 4) -> (1, N, 4) on the device."""
        return torch.from_numpy(np.ascontiguousarray(boxes, np.float32))[None].to(self.device)
