"""The live teacher: from a batch of images to the named targets of its pairs, the same for whoever asks.

Letters: B pairs, S side of each image's crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from kdlosses.projection import Projection
from kdlosses.targets import compute, layers_of, round_features
from models import TeacherNetwork
from pairs.batch import Boxes


class LiveTeacher:
    """A teacher that computes targets: what precompute stores, and what a run sees of a batch that no cache holds.

    feature_bits: teacher.feature_bits, of whole features; channels_last: memory format of the network's convolutions.
    """

    def __init__(self, network: TeacherNetwork, feature_bits: int | None = None, channels_last: bool = True) -> None:
        self.network = network.to(memory_format=torch.channels_last) if channels_last else network
        self.feature_bits = feature_bits

    def targets(
        self, ref: Tensor, test: Tensor, boxes: Boxes, names: Sequence[str], projection: Projection | None = None
    ) -> dict[str, Tensor]:
        """The named targets, rounded: what comes back from a cache but for its float16.

        ref, test (B, 3, S, S) normalised; projection: for projected targets. Returns "target/array" -> float32, leading dim B.
        """
        return self.rounded(self.exact(ref, test, boxes, names, projection))

    def exact(
        self, ref: Tensor, test: Tensor, boxes: Boxes, names: Sequence[str], projection: Projection | None = None
    ) -> dict[str, Tensor]:
        """As `targets`, whole features not rounded."""
        return {key: value for numbers in self.one_by_one(ref, test, boxes, names, projection) for key, value in numbers.items()}

    def one_by_one(
        self, ref: Tensor, test: Tensor, boxes: Boxes, names: Sequence[str], projection: Projection | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """As `exact`, target after target of one forward pass: whoever lets go of one before the next never holds all of them."""
        if names:
            outputs = self.network(ref, test, boxes.ref_box, boxes.proposals, layers_of(names))
            for name in names:
                yield compute((name,), outputs, boxes, projection)

    def rounded(self, exact: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `exact` gave -> what `targets` gives; a tensor that rounding leaves alone is the same object."""
        return round_features(exact, self.feature_bits)
