"""The backbones, cut into the stages conv1, layer1, layer2 and layer3 (strides 2, 4, 8 and 16): a class and a row of `BACKBONES` each.

Parameter names are those of the public trackers' checkpoints, which is why layer4 and the classifier exist here: they are
loaded and saved, never run and never trained. Blocks are torchvision's, and so is the initialisation (He et al., fan_out).
Letters: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import MobileNet_V2_Weights, ResNet18_Weights, ResNet50_Weights, mobilenet_v2
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.outputs import LAYERS


class Backbone(nn.Module):
    """Runs the stages up to the last one asked for. Subclasses define the stages and, where they differ, the hooks `stem` and `reduce`."""

    conv1: nn.Module
    channels: dict[str, int]
    """layer -> C"""
    unused: ClassVar[tuple[str, ...]] = ()
    """submodules that are never run: there for the sake of the public checkpoints"""

    @classmethod
    def our_name(cls, name: str) -> str:
        """The name that a parameter of torchvision's own network has here."""
        return name

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
        wanted = [layer for layer in LAYERS if layer in layers]
        maps: dict[str, Tensor] = {}
        x = images
        for index, layer in enumerate(LAYERS):
            if len(maps) == len(wanted):
                break
            x = self.stem(x) if index == 0 else getattr(self, layer)(self.reduce(x) if index == 1 else x)
            if layer in wanted:
                maps[layer] = x
        return maps

    def stop_unused(self) -> None:
        """Takes the stages that are never run out of training (they would have no gradient)."""
        for name in self.unused:
            getattr(self, name).requires_grad_(False)


class ResNet(Backbone):
    """ResNet-18 or -50 (He et al., CVPR 2016), all widths times `width` / 64."""

    unused = ("layer4", "fc")

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


class _Clamped(torch.autograd.Function):
    """ReLU6 in place, of which the result alone is kept for the backward pass. PyTorch's own keeps a copy of what was there before."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.mark_dirty(maps)
        ctx.save_for_backward(maps.clamp_(0, 6))
        return maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.hardtanh_backward(grad, result, 0.0, 6.0)
        return gradient


class ReLU6(nn.Module):
    """min(max(x, 0), 6), in place where a backward pass follows."""

    def forward(self, maps: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not maps.requires_grad:
            return functional.relu6(maps)
        result: Tensor = _Clamped.apply(maps)
        return result


class MobileNetV2(Backbone):
    """MobileNetV2 (Sandler et al., CVPR 2018), its 19 blocks cut where the stride changes, all widths times `width` / 32."""

    unused = ("layer4", "classifier")
    blocks: ClassVar = {"conv1": range(1), "layer1": range(1, 4), "layer2": range(4, 7), "layer3": range(7, 11), "layer4": range(11, 19)}

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        whole = mobilenet_v2(weights=None, width_mult=width / 32)
        for stage, blocks in self.blocks.items():
            setattr(self, stage, nn.Sequential(*(whole.features[index] for index in blocks)))
        for block in [module for module in self.modules() if isinstance(module, nn.Sequential)]:
            for name, module in block.named_children():
                if isinstance(module, nn.ReLU6):
                    block.set_submodule(name, ReLU6())
        self.classifier = whole.classifier
        self.channels = {layer: whole.features[self.blocks[layer][-1]].out_channels for layer in LAYERS}
        self.stop_unused()

    @classmethod
    def our_name(cls, name: str) -> str:
        head, _, rest = name.partition(".")
        index, _, rest = rest.partition(".") if head == "features" else ("", "", "")
        for stage, blocks in cls.blocks.items():
            if index.isdecimal() and int(index) in blocks:
                return f"{stage}.{int(index) - blocks.start}.{rest}"
        return name


class BackboneRow(NamedTuple):
    """What a tracker needs to know of a backbone."""

    make: Callable[[int], Backbone]
    """width, the channels of conv1 -> the network with random weights"""
    imagenet: Mapping[int, Any]
    """width -> torchvision's weights for it: the first published ones, which the public trackers started from"""


BACKBONES: dict[str, BackboneRow] = {
    "resnet18": BackboneRow(partial(ResNet, 18), {64: ResNet18_Weights.IMAGENET1K_V1}),
    "resnet50": BackboneRow(partial(ResNet, 50), {64: ResNet50_Weights.IMAGENET1K_V1}),
    "mobilenet_v2": BackboneRow(MobileNetV2, {32: MobileNet_V2_Weights.IMAGENET1K_V1}),
}
