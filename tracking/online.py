"""The online trackers: ATOM's and DRNet's, from a checkpoint to a box a frame.

ATOM: Danelljan et al. (CVPR 2019, arXiv:1811.07628): a classifier that is learnt online says where the target roughly is, the network
climbs from there to a box. DRNet: the network answers with a box at once.
Frames are (H, W, 3) uint8 RGB; boxes (x, y, w, h), 0-based, frame pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.architectures import ARCHITECTURES
from configs.errors import RequestError
from configs.tracking import TrackingConfig, variant_of
from models.refine import step_pixels
from models.tracker import HEAD_LAYERS
from pairs.streams import TRACKED_BOXES, counter_uniform
from tracking.classifier import Classifier, normalised
from tracking.first_frame import augmented
from tracking.localise import Place, localise
from tracking.network import Features, Network, TorchNetwork
from tracking.onnx_network import OnnxNetwork
from tracking.patches import Patch, cut_patch
from tracking.result import Result


def build_tracker(checkpoint: Path, config: TrackingConfig, device: torch.device) -> OnlineTracker:
    """The tracker of a checkpoint, or of a network in one ONNX file (`models.deploy`).

    RequestError: no such file, a network of another family than the variant's, an ONNX file for another size or number of steps.
    """
    network = _network(Path(checkpoint), config, device)
    family = variant_of(network.architecture)
    if not config.variant.startswith(family):
        raise RequestError(
            f"{checkpoint}: expected a network of the {config.variant} tracker, found {network.architecture}; set tracking.variant={family}"
        )
    own = config.classifier.checkpoint
    return OnlineTracker(network, network if own is None else TorchNetwork(Path(own), device), config)


def _network(path: Path, config: TrackingConfig, device: torch.device) -> Network:
    if path.suffix != ".onnx":
        return TorchNetwork(path, device)
    network = OnnxNetwork(path, device)
    network.check(config)
    return network


class OnlineTracker:
    """Follows one target: `init` with its box in the first frame, then `update` with every frame. Another `init` begins anew.

    The same frames give the same boxes: all random numbers are functions of the seed and of the number of the frame.
    """

    def __init__(self, network: Network, classifier_network: Network, config: TrackingConfig) -> None:
        """network: of the boxes; classifier_network: of the features that the classifier learns on, which may be the same."""
        self.network, self.classifier_network, self.config = network, classifier_network, config
        layer = config.classifier.layer
        self.together = network is classifier_network and (config.classifier_size, config.classifier_factor) == (
            config.size,
            config.area_factor,
        )
        self.layers = tuple(dict.fromkeys((*HEAD_LAYERS, layer))) if self.together else HEAD_LAYERS
        spec = ARCHITECTURES[classifier_network.architecture]
        self.width = config.classifier.projection or (64 if spec.head == 256 else 32)

    def init(self, image: np.ndarray, box: Any) -> None:
        """The first frame and the target's box in it. RequestError: no frame, or a box without area, not finite or outside the frame."""
        _check_frame(image)
        self.box = _checked_box(box, image)
        self.first_sides, self.frame = self.box[2:].copy(), 0
        patch, features, maps_patch, maps = self._look(image)
        self.vectors = self.network.modulation(features, patch.to_crop(self.box))
        config, size = self.config, self.config.classifier_size
        plain = maps_patch.to_crop(self.box)
        samples, centers = maps, (plain[:2] + plain[2:] / 2)[None]
        if config.classifier.augment:
            wide = cut_patch(image, self.box, 2 * size, 2 * config.classifier_factor, config.reading)
            images, shifted = augmented(wide, wide.to_crop(self.box), size, config.seed)
            samples = torch.cat([samples, self.classifier_network.features(images, (config.classifier.layer,))[config.classifier.layer]])
            centers = np.concatenate([centers, shifted])
        self.classifier = Classifier(config, samples, centers, self.width)

    def update(self, image: np.ndarray) -> Result:
        """The target in the next frame."""
        _check_frame(image)
        self.frame += 1
        config = self.config.classifier
        patch, features, maps_patch, maps = self._look(image)
        maps = normalised(maps)
        place = localise(self.classifier.response(maps), self.box[2:] / maps_patch.scale, self.config.localisation)
        if place.state != "not_found":
            self.box = self._box(image, patch, features, self._moved(image, maps_patch, place))
        if place.state == "found":
            center = maps_patch.to_crop(np.array([*(self.box[:2] + self.box[2:] / 2), 0, 0]))[:2]
            self.classifier.add(maps, center, config.hard_learning_rate if place.hard_negative else config.learning_rate)
        if place.hard_negative or self.frame % config.every == 0:
            self.classifier.train()
        x, y, w, h = self.box.tolist()
        return Result((x, y, w, h), place.score, place.state)

    def _look(self, image: np.ndarray) -> tuple[Patch, Features, Patch, torch.Tensor]:
        """The network's crop and its features, the classifier's crop and its features (1, C, H, W)."""
        config, layer = self.config, self.config.classifier.layer
        patch = cut_patch(image, self.box, config.size, config.area_factor, config.reading)
        features = self.network.features(patch.image[None], self.layers)
        if self.together:
            return patch, features, patch, features[layer]
        other = cut_patch(image, self.box, config.classifier_size, config.classifier_factor, config.reading)
        return patch, features, other, self.classifier_network.features(other.image[None], (layer,))[layer]

    def _moved(self, image: np.ndarray, patch: Patch, place: Place) -> np.ndarray:
        """The box of the last size at a place in the classifier's crop."""
        center = patch.to_frame(np.array([*place.position, 0, 0]))[:2]
        return self._kept_inside(image, np.concatenate([center - self.box[2:] / 2, self.box[2:]]))

    def _box(self, image: np.ndarray, patch: Patch, features: Features, start: np.ndarray) -> np.ndarray:
        """The network's box of the target, from the one where the classifier saw it."""
        begin = patch.to_crop(start)
        if ARCHITECTURES[self.network.architecture].numbers == 4:
            found = self.network.direct(self.vectors, features, begin[None])[0]
        else:
            found = self._climbed(features, begin)
        if not (np.isfinite(found).all() and (found[2:] > 0).all()):
            return start
        sides = begin[2:] * (found[2:] / begin[2:]) ** self.config.refinement.size_rate
        return self._kept_inside(image, patch.to_frame(np.concatenate([found[:2] + (found[2:] - sides) / 2, sides])))

    def _climbed(self, features: Features, begin: np.ndarray) -> np.ndarray:
        """The mean of the best boxes after the ascent; `begin` where none is left."""
        config = self.config.refinement
        boxes = np.concatenate([begin[None], self._around(begin)])
        step = step_pixels(config.step, self.config.size, self.config.area_factor)
        boxes, predicted = self.network.climb(self.vectors, features, boxes, config.steps, step)
        sides = boxes[:, 2:]
        good = (sides > 0).all(1) & (sides.max(1) < config.max_aspect * sides.min(1))
        best = np.flatnonzero(good)[np.argsort(-predicted[good], kind="stable")[: config.top_k]]
        return boxes[best].mean(0) if len(best) else begin

    def _around(self, box: np.ndarray) -> np.ndarray:
        """Random boxes around one, in crop pixels; no side below a third of its shorter one."""
        config, side = self.config.refinement, float(np.sqrt(box[2:].prod()))
        uniform = counter_uniform(self.config.seed, TRACKED_BOXES[0], self.frame, 1, 4 * (config.boxes - 1)).reshape(-1, 4) - 0.5
        sides = np.maximum(box[2:] + uniform[:, 2:] * side * config.size_jitter, box[2:].min() / 3)
        center = box[:2] + box[2:] / 2 + uniform[:, :2] * side * config.position_jitter
        return np.concatenate([center - sides / 2, sides], axis=1)

    def _kept_inside(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The box with sides between the least one and the frame's, and with a share of it inside the frame."""
        frame = np.array(image.shape[1::-1], float)
        sides = np.clip(box[2:], np.minimum(np.minimum(self.config.min_side, self.first_sides), frame), frame)
        margin = (self.config.inside - 0.5) * sides
        center = np.clip(box[:2] + box[2:] / 2, margin, frame - margin)
        return np.concatenate([center - sides / 2, sides])


def _check_frame(image: np.ndarray) -> None:
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise RequestError(f"expected a frame (H, W, 3) of uint8, found {found}; convert it to RGB")


def _checked_box(box: Any, image: np.ndarray) -> np.ndarray:
    try:
        numbers = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    height, width = image.shape[:2]
    if numbers.shape != (4,) or not np.isfinite(numbers).all() or not (numbers[2:] > 0).all():
        raise RequestError(f"expected a box x,y,w,h of finite numbers with w, h > 0, found {box!r:.80}; correct it")
    if not ((numbers[:2] < (width, height)).all() and (numbers[:2] + numbers[2:] > 0).all()):
        raise RequestError(f"expected a box that meets the frame of {width} x {height}, found {numbers.tolist()}; correct it")
    return numbers
