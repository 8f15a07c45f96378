"""The backbones, cut into the stages conv1, layer1, layer2 and layer3 (strides 2, 4, 8 and 16).

Parameter names are those of the public trackers' checkpoints, which is why layer4 and the classifier exist here: they are
loaded and saved, never run and never trained. Blocks are torchvision's, and so is the initialisation (He et al., fan_out).
Letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.outputs import LAYERS


class Backbone(nn.Module):
    """Runs the stages up to the last one asked for. Subclasses define the stages and the two hooks `stem` and `reduce`."""

    conv1: nn.Module
    channels: dict[str, int]
    unused: tuple[str, ...]

    def stem(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the map of conv1, after BatchNorm and the activation, at stride 2."""
        return self.conv1(images)

    def reduce(self, conv1: Tensor) -> Tensor:
        """What lies between the map of conv1 and layer1."""
        return conv1

    def forward(self, images: Tensor, layers: Iterable[str] = LAYERS) -> dict[str, Tensor]:
        """images (B, 3, S, S), normalised -> layer -> (B, C, S / stride, S / stride), for the layers asked for, in stage order."""
        layers = tuple(layers)
        # Maps that nobody asked for are let go at once: conv1's is the largest of all.
        last = max((LAYERS.index(layer) for layer in layers), default=-1)
        maps: dict[str, Tensor] = {}
        x = images
        for index, layer in enumerate(LAYERS[: last + 1]):
            x = self.stem(x) if index == 0 else getattr(self, layer)(self.reduce(x) if index == 1 else x)
            if layer in layers:
                maps[layer] = x
        return maps

    def stop_unused(self) -> None:
        """Takes the stages that are never run out of training (they would have no gradient)."""
        for name in self.unused:
            getattr(self, name).requires_grad_(False)


class ResNet(Backbone):
    """ResNet-18 or -50 (He et al., CVPR 2016), all widths times `width` / 64."""

    def __init__(self, depth: int, width: int = 64) -> None:
        super().__init__()
        block, counts = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}[depth]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for index, count in enumerate(counts):
            planes = width * 2**index
            setattr(self, f"layer{index + 1}", _residual_stage(block, inputs, planes, count, stride=1 if index == 0 else 2))
            inputs = planes * block.expansion
        self.fc = nn.Linear(inputs, 1000)
        self.channels = {"conv1": width} | {f"layer{k}": width * 2 ** (k - 1) * block.expansion for k in (1, 2, 3)}
        self.unused = ("layer4", "fc")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.stop_unused()

    def stem(self, images: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(images)))

    def reduce(self, conv1: Tensor) -> Tensor:
        return self.maxpool(conv1)


def _residual_stage(block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, count: int, stride: int) -> nn.Sequential:
    """`count` blocks, the first one with the stride and, where shapes change, a projection in its shortcut."""
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(block(inputs, planes, stride, shortcut), *(block(outputs, planes) for _ in range(count - 1)))


class MobileNetV2(Backbone):
    """MobileNetV2 (Sandler et al., CVPR 2018), its 19 blocks cut where the stride changes."""

    def __init__(self) -> None:
        super().__init__()
        whole = torchvision.models.mobilenet_v2(weights=None)
        blocks = list(whole.features)
        self.conv1 = nn.Sequential(*blocks[:1])
        self.layer1 = nn.Sequential(*blocks[1:4])
        self.layer2 = nn.Sequential(*blocks[4:7])
        self.layer3 = nn.Sequential(*blocks[7:11])
        self.layer4 = nn.Sequential(*blocks[11:])
        self.classifier = whole.classifier
        self.channels = {"conv1": 32, "layer1": 24, "layer2": 32, "layer3": 64}
        self.unused = ("layer4", "classifier")
        self.stop_unused()
