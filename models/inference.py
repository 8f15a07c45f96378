"""A network's parts as an online tracker runs them, one frame after the other.

On a processor they are traced once: BatchNorm lies in the convolutions, oneDNN keeps its own layouts from layer to layer, and no Python
runs between the operators. On a GPU they are the plain modules.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.ascent import Ascent, lines_of
from models.heads import Head
from models.tracker import HEAD_LAYERS, Tracker
from pairs.decode.decoder import MEAN, STD

_SIDE = 64
"""Of the crop that is traced: the parts do not depend on it."""


class HeadMaps(nn.Module):
    """Crops (B, S, S, 3) uint8 RGB -> the backbone's layer2 and layer3, (B, C, S / stride, S / stride)."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.backbone = tracker.feature_extractor
        for name, row in (("mean", MEAN * 255), ("scale", 1 / (STD * 255))):
            self.register_buffer(name, torch.from_numpy(row).to(next(self.backbone.parameters()).device)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = images.permute(0, 3, 1, 2).contiguous().float()
        maps = self.backbone((pixels - self.get_buffer("mean")) * self.get_buffer("scale"), HEAD_LAYERS)
        return tuple(maps[layer] for layer in HEAD_LAYERS)


class Lines(nn.Module):
    """Maps of layer2 and layer3 -> the lines that an `Ascent` takes."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, layer2: Tensor, layer3: Tensor) -> tuple[Tensor, Tensor]:
        return lines_of(self.head.encode(layer2, layer3))


class Parts:
    """The parts of a tracker in eval mode whose parameters have no gradient, where its parameters are.

    head_maps: of `HeadMaps`; of ATOM also lines, of `Lines`, and ascent, of `Ascent`, for one image. Other B are slower the first time.
    """

    @torch.no_grad()
    def __init__(self, tracker: Tracker) -> None:
        device, head = next(tracker.parameters()).device, tracker.bb_regressor
        image = torch.zeros(1, _SIDE, _SIDE, 3, dtype=torch.uint8, device=device)
        self.head_maps = _fast(HeadMaps(tracker), image)
        if tracker.numbers == 1:
            maps = self.head_maps(image)
            self.lines = _fast(Lines(head), *maps)
            boxes = torch.tensor([[[20.0, 20, 16, 16], [18, 18, 16, 16]]], device=device)
            vector = torch.ones(1, head.fc3_rt.linear.out_features, device=device)
            self.ascent = _fast(Ascent(head), (vector, vector), self.lines(*maps), boxes)


def _fast(module: nn.Module, *inputs: Any) -> Callable[..., Any]:
    """The module on a GPU; on a processor traced with these inputs, and run until its executor has made up its mind."""
    module.eval()
    if torch.cuda.is_available() and next(module.buffers()).is_cuda:
        return module
    with warnings.catch_warnings():
        # deprecated in favour of torch.compile, which needs a C++ compiler and takes half a minute
        warnings.simplefilter("ignore")
        traced: Callable[..., Any] = torch.jit.optimize_for_inference(torch.jit.trace(module, inputs, check_trace=False))
    for _ in range(2):
        traced(*inputs)
    return traced
