"""The samples that the online classifier learns from, and how much each one weighs.

Letters: n samples, H, W rows and columns, K channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tracking.optimiser import Samples


class Memory:
    """At most `room` samples; the first ones never leave and together keep a share of all weight.

    A new sample weighs `rate` among all and the others lose that much; where there is no room the lightest of the later ones leaves.
    """

    def __init__(self, features: Tensor, labels: Tensor, room: int, first_share: float) -> None:
        """features (n, H, W, K) and labels (n, H, W) of the first frame, of equal weight."""
        self.first, self.count, self.first_share = len(features), len(features), first_share
        self.features = features.new_zeros(max(room, self.first), *features.shape[1:])
        self.labels = labels.new_zeros(max(room, self.first), *labels.shape[1:])
        self.features[: self.first], self.labels[: self.first] = features, labels
        self.weights = torch.full((self.first,), 1 / self.first, dtype=torch.float64)

    def add(self, features: Tensor, label: Tensor, rate: float) -> None:
        """One more sample (H, W, K) with its label (H, W). Where the first ones fill all the room, nothing."""
        if self.count < len(self.features):
            place, self.count = self.count, self.count + 1
            self.weights = torch.cat([self.weights, self.weights.new_zeros(1)])
        elif self.first < self.count:
            place = self.first + int(self.weights[self.first :].argmin())
        else:
            return
        self.features[place], self.labels[place] = features, label
        self.weights[place] = 0
        self.weights *= (1 - rate) / self.weights.sum()
        self.weights[place] = rate
        share = float(self.weights[: self.first].sum())
        if share < self.first_share:
            self.weights[: self.first] *= self.first_share / share
            self.weights[self.first :] *= (1 - self.first_share) / (1 - share)

    def samples(self) -> Samples:
        """All of them, as the optimiser takes them."""
        weights = self.weights.to(self.features)
        return Samples(self.features[: self.count], self.labels[: self.count], weights)
