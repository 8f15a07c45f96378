"""The online classifier: a projection and a filter on the features of a network, learnt on the target of one video.

Letters: n samples, H, W rows and columns of the map, C channels of the features, K of the projection, S side of the crop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from configs.tracking import TrackingConfig
from models.outputs import STRIDES
from pairs.streams import TRACKED_DROPOUT, TRACKED_PROJECTION, counter_normal, counter_uniform
from tracking.first_frame import THINNED, THINNING
from tracking.memory import Memory
from tracking.optimiser import Regularisation, Samples, correlate, fit_both, fit_filter
from tracking.response import gaussian_labels, hann_window, upsampling

LEAST_SIGMA = 0.75
"""Cells. Narrower: even a perfect response peaks at a half between the cells."""


def label_sigma(config: TrackingConfig, share: float) -> float:
    """Sigma in cells of a label that is `share` sides of the target wide."""
    stride = STRIDES[config.classifier.layer]
    return max(share * config.classifier_size / config.classifier_factor / stride, config.classifier.label_cells)


def narrow_label(config: TrackingConfig) -> str | None:
    """What to know of labels so narrow that they fall between the cells; None where they do not."""
    cells = min(label_sigma(config, share) for share in config.classifier.label_sigmas)
    if cells >= LEAST_SIGMA:
        return None
    return (
        f"the classifier's label has a sigma of {cells:.2f} cells: below {LEAST_SIGMA} a target between two cells looks like a lost one;"
        " raise tracking.classifier.label_cells or tracking.classifier.label_sigmas, or take a layer of smaller stride"
    )


def normalised(features: Tensor) -> Tensor:
    """(n, C, H, W) -> (n, H, W, C), each map divided by its root of mean squares."""
    scale = (features.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-10).rsqrt()
    return (features * scale).permute(0, 2, 3, 1).contiguous()


class _Filter:
    """One filter behind its projection, with the samples that it learns from."""

    def __init__(self, config: TrackingConfig, features: Tensor, labels: Tensor, width: int, number: int) -> None:
        self.config = section = config.classifier
        channels, seed = features.shape[-1], config.seed
        drawn = counter_normal(seed, TRACKED_PROJECTION[number], 0, width, channels) / channels**0.5
        taps = features.new_zeros(section.kernel**2, width)
        weights = features.new_full((len(features),), 1 / len(features))
        regularisation = Regularisation(section.filter_regularisation, section.projection_regularisation)
        self.taps, self.projection = fit_both(
            Samples(features, labels, weights),
            taps,
            torch.from_numpy(drawn).to(features),
            regularisation,
            section.first_rounds,
            section.first_steps,
        )
        self.memory = Memory(self.project(features), labels, section.memory, section.first_share)

    def project(self, features: Tensor) -> Tensor:
        """(n, H, W, C) -> (n, H, W, K)."""
        return features @ self.projection.T

    def train(self) -> None:
        """Conjugate-gradient steps of the filter on the memory."""
        self.taps = fit_filter(self.memory.samples(), self.taps, self.config.filter_regularisation, self.config.steps)


class Classifier:
    """All filters of one video, one for each label width."""

    def __init__(self, config: TrackingConfig, features: Tensor, centers: np.ndarray, width: int) -> None:
        """features (n, C, H, W) of the first frame's samples, the plain one first; centers (n, 2) of the target in them; width: K."""
        self.config, self.cells, size = config, features.shape[-1], config.classifier_size
        self.stride, self.kernel = STRIDES[config.classifier.layer], config.classifier.kernel
        maps = normalised(features)
        if config.classifier.augment:
            maps = torch.cat([maps, _thinned(maps[:1], config.seed)])
            centers = np.concatenate([centers, centers[:1].repeat(THINNED, axis=0)])
        self.filters = [
            _Filter(config, maps, self._label(centers, share).to(maps), width, number)
            for number, share in enumerate(config.classifier.label_sigmas)
        ]
        self.rows = upsampling(self.cells, self.stride, size, self.kernel).to(maps)
        self.window = hann_window(size).to(maps) if config.localisation.window else None

    def response(self, maps: Tensor) -> np.ndarray:
        """maps (1, H, W, C), normalised -> the response (S, S) at every crop pixel."""
        low = torch.stack([correlate(one.project(maps), one.taps)[0] for one in self.filters]).mean(0)
        whole = self.rows @ low @ self.rows.T
        return (whole if self.window is None else whole * self.window).cpu().numpy()

    def add(self, maps: Tensor, center: np.ndarray, rate: float) -> None:
        """One more sample: maps (1, H, W, C), the target's centre (2,) in the crop, its weight."""
        for one, share in zip(self.filters, self.config.classifier.label_sigmas, strict=True):
            one.memory.add(one.project(maps)[0], self._label(center[None], share)[0].to(maps), rate)

    def train(self) -> None:
        """An update of every filter."""
        for one in self.filters:
            one.train()

    def _label(self, centers: np.ndarray, share: float) -> Tensor:
        return torch.from_numpy(gaussian_labels(centers, label_sigma(self.config, share), self.cells, self.stride, self.kernel))


def _thinned(maps: Tensor, seed: int) -> Tensor:
    """Copies of maps (1, H, W, C), each without some of its channels, the others the larger."""
    uniform = counter_uniform(seed, TRACKED_DROPOUT[0], 0, THINNED, maps.shape[-1])
    return maps * torch.from_numpy((uniform >= THINNING) / (1 - THINNING)).to(maps)[:, None, None]
