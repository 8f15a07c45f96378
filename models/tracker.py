"""The trackers: a backbone, a head, and the forward pass over pairs that training and distillation use.

Letters: B pairs, N proposals, S side of the crop. Boxes are (x, y, w, h), top-left corner, crop pixels, float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from configs.errors import RequestError, nearest
from models.backbones import Backbone, MobileNetV2, ResNet
from models.heads import Head
from models.outputs import LAYERS, Outputs, check_layers

HEAD_LAYERS = ("layer2", "layer3")
PARTS = {"backbone": "feature_extractor", "head": "bb_regressor"}
"""Part of a tracker, as users name it -> its submodule, and the first word of its parameters' names."""


@dataclass(frozen=True)
class Architecture:
    """What `build` builds."""

    backbone: Literal["resnet18", "resnet50", "mobilenet_v2"]
    width: int
    """Channels of the backbone's conv1 (64 is the published ResNet; narrower ones are the thesis' students)."""
    head: int
    """Width D of the head."""
    numbers: int
    """Numbers a proposal: 1 (ATOM) or 4 (DRNet)."""


ARCHITECTURES: dict[str, Architecture] = {
    "atom_resnet18": Architecture("resnet18", 64, 256, 1),
    "atom_resnet50": Architecture("resnet50", 64, 256, 1),
    "atom_resnet18medium": Architecture("resnet18", 32, 128, 1),
    "atom_resnet18small": Architecture("resnet18", 16, 64, 1),
    "atom_resnet18tiny": Architecture("resnet18", 8, 32, 1),
    "atom_mobilenetsmall": Architecture("mobilenet_v2", 32, 64, 1),
    "drnet_resnet50": Architecture("resnet50", 64, 256, 4),
    "drnet_mobilenetsmall": Architecture("mobilenet_v2", 32, 64, 4),
}


def build(architecture: str) -> Tracker:
    """The named network with random weights (of torch's generator), in train mode. RequestError for an unknown name."""
    if architecture not in ARCHITECTURES:
        raise RequestError(
            f"expected an architecture among {', '.join(ARCHITECTURES)}, found {architecture!r}"
            f"{nearest(architecture, ARCHITECTURES)}; correct the name"
        )
    return Tracker(architecture)


class Tracker(nn.Module):
    """A tracker's network. `state_dict()` has the names and shapes of the public checkpoints of its architecture."""

    def __init__(self, architecture: str) -> None:
        super().__init__()
        spec = ARCHITECTURES[architecture]
        self.architecture = architecture
        self.numbers = spec.numbers
        self.feature_extractor: Backbone
        if spec.backbone == "mobilenet_v2":
            self.feature_extractor = MobileNetV2()
        else:
            self.feature_extractor = ResNet(50 if spec.backbone == "resnet50" else 18, spec.width)
        self.channels: dict[str, int] = self.feature_extractor.channels
        self.bb_regressor = Head((self.channels["layer2"], self.channels["layer3"]), spec.head, spec.numbers)
        self.frozen: tuple[str, ...] = ()

    def forward(self, ref: Tensor, test: Tensor, ref_box: Tensor, proposals: Tensor, layers: Iterable[str] = ()) -> Outputs:
        """ref, test (B, 3, S, S) normalised; ref_box (B, 4); proposals (B, N, 4); layers: features to return, of `LAYERS`.

        Both images of every pair go through the backbone as one batch of 2B, so in training its BatchNorm sees both.
        Under autocast the features keep autocast's type; the prediction is float32.
        """
        layers = check_layers(layers)
        pairs = ref.shape[0]
        maps = self.feature_extractor(torch.cat((ref, test)), (*layers, *HEAD_LAYERS))
        first = {layer: features[:pairs] for layer, features in maps.items()}
        second = {layer: features[pairs:] for layer, features in maps.items()}
        prediction = self.predict(self.modulation(first, ref_box), second, proposals)
        return Outputs(prediction, {layer: first[layer] for layer in layers}, {layer: second[layer] for layer in layers})

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


class Teacher(nn.Module):
    """A tracker that only answers: frozen, always in eval mode, without gradients, outputs in float32.

    dtype: autocast type of its forward pass (`float32`, `bfloat16`, `float16`); its weights stay in float32.
    """

    def __init__(self, tracker: Tracker, dtype: str = "float32") -> None:
        super().__init__()
        types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype not in types:
            raise RequestError(f"expected the teacher's dtype among {', '.join(types)}, found {dtype!r}; correct teacher.dtype")
        self.dtype = types[dtype]
        self.tracker = tracker
        tracker.freeze(PARTS)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        # A cached target may not depend on which other pairs shared its batch, so BatchNorm never uses batch statistics here.
        super().train(False)
        return self

    @property
    def architecture(self) -> str:
        return self.tracker.architecture

    @property
    def channels(self) -> dict[str, int]:
        return self.tracker.channels

    @property
    def numbers(self) -> int:
        return self.tracker.numbers

    @torch.no_grad()
    def forward(self, ref: Tensor, test: Tensor, ref_box: Tensor, proposals: Tensor, layers: Iterable[str] = ()) -> Outputs:
        """As `Tracker.forward`. An autocast region around the call does not reach the teacher: its own dtype counts."""
        with torch.autocast(ref.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            outputs = self.tracker(ref, test, ref_box, proposals, layers)
        return Outputs(
            outputs.prediction.float(),
            {layer: features.float() for layer, features in outputs.ref.items()},
            {layer: features.float() for layer, features in outputs.test.items()},
        )
