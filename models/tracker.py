"""The trackers: a backbone, a head, and the forward pass over pairs that training and distillation use.

Letters: B pairs, N proposals, S side of the crop of either image. Boxes are (x, y, w, h), top-left corner, crop pixels, float32.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from configs.architectures import ARCHITECTURES, Architecture
from configs.errors import RequestError, nearest
from models.backbones import BACKBONES
from models.heads import Head
from models.outputs import LAYERS, Outputs, check_layers

__all__ = ["ARCHITECTURES", "HEAD_LAYERS", "PARTS", "Architecture", "Tracker", "blueprint", "build"]

HEAD_LAYERS = ("layer2", "layer3")
PARTS = {"backbone": "feature_extractor", "head": "bb_regressor"}
"""Part of a tracker, as users name it -> its submodule, and the first word of its parameters' names."""


def build(architecture: str) -> Tracker:
    """The named network with random weights (of torch's generator), in train mode. RequestError for an unknown name."""
    if architecture not in ARCHITECTURES:
        raise RequestError(
            f"expected an architecture among {', '.join(ARCHITECTURES)}, found {architecture!r}"
            f"{nearest(architecture, ARCHITECTURES)}; correct the name"
        )
    return Tracker(architecture)


@functools.cache
def blueprint(architecture: str) -> Tracker:
    """The named network without numbers (on the meta device): names, shapes, channels. One for all who ask: not to be changed."""
    with torch.device("meta"):
        return build(architecture)


class Tracker(nn.Module):
    """A tracker's network. `state_dict()` has the names and shapes of the public checkpoints of its architecture."""

    def __init__(self, architecture: str) -> None:
        super().__init__()
        spec = ARCHITECTURES[architecture]
        self.architecture = architecture
        self.numbers = spec.numbers
        self.feature_extractor = BACKBONES[spec.backbone].make(spec.width)
        self.channels = self.feature_extractor.channels
        self.bb_regressor = Head((self.channels["layer2"], self.channels["layer3"]), spec.head, spec.numbers)
        self.frozen: tuple[str, ...] = ()

    def forward(self, ref: Tensor, test: Tensor, ref_box: Tensor, proposals: Tensor, layers: Iterable[str] = ()) -> Outputs:
        """ref, test (B, 3, S, S) normalised, each with its S; ref_box (B, 4) in ref; proposals (B, N, 4) in test; layers: of `LAYERS`.

        Returns the predictions, and of both images the features of the layers asked for. Under autocast the features keep autocast's
        type; the prediction is float32.
        """
        layers = check_layers(layers)
        first, second = self._both(ref, test, (*layers, *HEAD_LAYERS))
        prediction = self.predict(self.modulation(first, ref_box), second, proposals)
        return Outputs(prediction, {layer: first[layer] for layer in layers}, {layer: second[layer] for layer in layers})

    def _both(self, ref: Tensor, test: Tensor, layers: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features of both images. Of one size they are one batch of 2B, so in training BatchNorm sees both; else each has a pass."""
        if ref.shape[2:] != test.shape[2:]:
            return self.feature_extractor(ref, layers), self.feature_extractor(test, layers)
        # the gradient of a split is one cat, in the layout of its parts; that of a slice is a map of zeros
        halves = {layer: both.split(len(ref)) for layer, both in self.feature_extractor(torch.cat((ref, test)), layers).items()}
        return {layer: first for layer, (first, _) in halves.items()}, {layer: second for layer, (_, second) in halves.items()}

    def features(self, images: Tensor, layers: Iterable[str] = LAYERS) -> dict[str, Tensor]:
        """images (B, 3, S, S), normalised -> layer -> (B, C, H, W)."""
        return self.feature_extractor(images, check_layers(layers))

    def modulation(self, ref_features: dict[str, Tensor], ref_box: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the reference images (layer2, layer3 are used) and boxes (B, 4) -> the two modulation vectors (B, D)."""
        return self.bb_regressor.modulation(ref_features["layer2"], ref_features["layer3"], ref_box)

    def predict(self, modulation: tuple[Tensor, Tensor], test_features: dict[str, Tensor], proposals: Tensor) -> Tensor:
        """Predictions (B, N) or (B, N, 4), float32, for proposals (B, N, 4); differentiable in the proposals.

        To ask again and again on one image (as a tracker that climbs the box gradient does), call `bb_regressor.encode` once
        and `bb_regressor.predict` with its maps.
        """
        maps = self.bb_regressor.encode(test_features["layer2"], test_features["layer3"])
        return self.bb_regressor.predict(modulation, maps, proposals)

    def part(self, name: str) -> nn.Module:
        """The submodule of a part, `backbone` or `head`."""
        if name not in PARTS:
            raise RequestError(f"expected a part among {', '.join(PARTS)}, found {name!r}{nearest(name, PARTS)}; correct the name")
        return self.get_submodule(PARTS[name])

    def freeze(self, parts: Iterable[str]) -> None:
        """Freezes exactly these parts (`backbone`, `head`) and frees the others, so that a later phase may swap them.

        A frozen part has requires_grad False everywhere and its BatchNorm stays in eval mode, whatever `train()` is called with.
        Stages of the backbone that are never run are always frozen.
        """
        parts = tuple(parts)
        modules = {name: self.part(name) for name in (*PARTS, *parts)}
        for name, module in modules.items():
            module.requires_grad_(name not in parts)
        self.feature_extractor.stop_unused()
        self.frozen = parts
        self.train(self.training)

    def train(self, mode: bool = True) -> Tracker:
        super().train(mode)
        for name in self.frozen:
            self.part(name).eval()
        return self
