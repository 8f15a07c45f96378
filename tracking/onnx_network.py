"""A network in one ONNX file (`models.deploy`) that answers an online tracker. Letters and boxes as in `tracking.network`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.errors import RequestError
from configs.tracking import TrackingConfig
from models.deploy import STEPS, sessions
from models.export import onnx_packages
from models.tracker import HEAD_LAYERS
from tracking.network import Features, Vectors


class OnnxNetwork:
    """A file in onnxruntime, on as many threads as PyTorch has, or on the GPU where onnxruntime has one."""

    def __init__(self, path: Path, device: torch.device) -> None:
        _, onnxruntime = onnx_packages()
        gpu = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        self.sessions, self.facts = sessions(path, ["CUDAExecutionProvider"] * gpu + ["CPUExecutionProvider"])
        self.path, self.architecture, self.device = path, self.facts.architecture, device

    def check(self, config: TrackingConfig) -> None:
        """RequestError where the file cannot do what a tracker of that configuration asks."""
        for what, wanted, has in (
            ("tracking.size", config.size, self.facts.size),
            ("tracking.refinement.steps", config.refinement.steps, STEPS if self.facts.numbers == 1 else config.refinement.steps),
        ):
            if wanted != has:
                raise RequestError(f"{self.path}: expected {what}={has}, as fixed in the file, found {wanted}; set it, or export anew")

    def features(self, images: np.ndarray, layers: Sequence[str]) -> Features:
        if strange := [layer for layer in layers if layer not in HEAD_LAYERS]:
            raise RequestError(
                f"{self.path}: expected layers among {', '.join(HEAD_LAYERS)}, found {strange[0]}; set tracking.classifier.layer"
            )
        maps = self._run("backbone", image=images)
        return {layer: torch.from_numpy(array).to(self.device) for layer, array in zip(HEAD_LAYERS, maps, strict=True)}

    def modulation(self, features: Features, box: np.ndarray) -> Vectors:
        first, second = self._run("modulation", **_maps(features), box=box[None].astype(np.float32))
        return torch.from_numpy(first), torch.from_numpy(second)

    def climb(self, vectors: Vectors, features: Features, boxes: np.ndarray, steps: int, step: float) -> tuple[np.ndarray, np.ndarray]:
        refined, predicted = self._refine(vectors, features, boxes, step=np.float32(step))
        return refined[0].astype(np.float64), predicted[0].astype(np.float64)

    def direct(self, vectors: Vectors, features: Features, boxes: np.ndarray) -> np.ndarray:
        return self._refine(vectors, features, boxes)[0][0].astype(np.float64)

    def _refine(self, vectors: Vectors, features: Features, boxes: np.ndarray, **more: Any) -> list[np.ndarray]:
        target3, target4 = (vector.numpy() for vector in vectors)
        return self._run("refinement", target3=target3, target4=target4, **_maps(features), boxes=boxes[None].astype(np.float32), **more)

    def _run(self, part: str, **inputs: Any) -> list[np.ndarray]:
        return self.sessions[part].run(None, {name: np.asarray(value) for name, value in inputs.items()})


def _maps(features: Features) -> dict[str, np.ndarray]:
    return {layer: features[layer].cpu().numpy() for layer in HEAD_LAYERS}
