"""The heads of ATOM (Danelljan et al., CVPR 2019, arXiv:1811.07628) and of DRNet: one network, 1 or 4 numbers a proposal.

Letters: B pairs, N proposals, C channels, H rows, W columns, D the head's width (256 for the teachers).
Names of parameters are those of the public checkpoints: 3 and 4 are layer2 and layer3, r the reference, t the test branch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from configs.errors import RequestError
from models.outputs import STRIDES
from models.prroi import prroi_pool

SCALE3, SCALE4 = 1 / STRIDES["layer2"], 1 / STRIDES["layer3"]


def _conv(inputs: int, outputs: int, size: int = 3, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class LinearBlock(nn.Module):
    """Linear + BatchNorm + ReLU over (rows, inputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.relu(self.bn(self.linear(rows)))


class Head(nn.Module):
    """Predicts numbers for proposals on the test image, given the target in the reference image.

    channels: C of layer2 and of layer3; width: D; numbers: 1 (ATOM's IoU) or 4 (DRNet's box offsets).
    """

    def __init__(self, channels: tuple[int, int], width: int, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv3_1r = _conv(channels[0], width // 2)
        self.conv3_1t = _conv(channels[0], width)
        self.conv3_2t = _conv(width, width)
        self.fc3_1r = _conv(width // 2, width, padding=0)
        self.conv4_1r = _conv(channels[1], width)
        self.conv4_1t = _conv(channels[1], width)
        self.conv4_2t = _conv(width, width)
        self.fc34_3r = _conv(2 * width, width, size=1, padding=0)
        self.fc34_4r = _conv(2 * width, width, size=1, padding=0)
        self.fc3_rt = LinearBlock(width * 5 * 5, width)
        self.fc4_rt = LinearBlock(width * 3 * 3, width)
        predictor = nn.Linear(2 * width, numbers)
        if numbers == 1:
            self.iou_predictor = predictor
        else:
            self.box_predictor = predictor
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_in")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and self.numbers == 1:
                nn.init.uniform_(module.weight)

    def modulation(self, layer2: Tensor, layer3: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Reference features (B, C, H, W) of both layers and the target's box (B, 4) -> two modulation vectors (B, D)."""
        if self.fc3_1r.training and len(box) < 2:
            # the reference vector is one number a channel and pair: BatchNorm has nothing to take statistics of
            raise RequestError("expected at least 2 pairs in a training batch of the head (BatchNorm), found 1; raise train.batch")
        box = box[:, None]
        pooled3 = self.fc3_1r(prroi_pool(self.conv3_1r(layer2), box, 3, SCALE3)[:, 0])
        pooled4 = prroi_pool(self.conv4_1r(layer3), box, 1, SCALE4)[:, 0]
        both = torch.cat((pooled3.to(pooled4.dtype), pooled4), dim=1)
        return self.fc34_3r(both).flatten(1), self.fc34_4r(both).flatten(1)

    def encode(self, layer2: Tensor, layer3: Tensor) -> tuple[Tensor, Tensor]:
        """Test features (B, C, H, W) of both layers -> the two maps (B, D, H, W) that proposals are pooled from."""
        return self.conv3_2t(self.conv3_1t(layer2)), self.conv4_2t(self.conv4_1t(layer3))

    def predict(self, modulation: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor], proposals: Tensor) -> Tensor:
        """Vectors of `modulation`, maps of `encode`, proposals (B, N, 4) -> (B, N), or (B, N, 4) with 4 numbers; float32."""
        batch, number = proposals.shape[:2]
        hidden = torch.cat(
            (
                self.fc3_rt(_modulated(maps[0], modulation[0], proposals, 5, SCALE3)),
                self.fc4_rt(_modulated(maps[1], modulation[1], proposals, 3, SCALE4)),
            ),
            dim=1,
        )
        predictor = self.iou_predictor if self.numbers == 1 else self.box_predictor
        # The last product is small; in bfloat16 it would round the IoU to 1/256.
        with torch.autocast(hidden.device.type, enabled=False):
            numbers = predictor(hidden.to(predictor.weight.dtype))
        return numbers.reshape((batch, number) if self.numbers == 1 else (batch, number, self.numbers))


def _modulated(features: Tensor, vector: Tensor, proposals: Tensor, size: int, scale: float) -> Tensor:
    """Pools (B, D, H, W) at the proposals, multiplies per channel by (B, D) and flattens: (B * N, D * size * size).

    Pooling is linear in every channel, so the product may come after it: N boxes of size^2 bins are fewer numbers than the map.
    """
    pooled = prroi_pool(features, proposals, size, scale)
    return (pooled * vector[:, None, :, None, None].to(pooled.dtype)).reshape(pooled.shape[0] * pooled.shape[1], -1)
