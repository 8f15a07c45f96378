"""What a tracker's forward pass returns, and the names of the layers that losses may ask for.

Letters: B pairs, N proposals, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from configs.errors import RequestError, nearest
from configs.section import LAYERS

STRIDES = {"conv1": 2, "layer1": 4, "layer2": 8, "layer3": 16}
"""Crop pixels between two cells of a stage's map."""


@dataclass
class Outputs:
    """One forward pass over B pairs."""

    prediction: Tensor
    """(B, N) predicted IoU label in [-1, 1] (ATOM) or (B, N, 4) box numbers (DRNet); float32."""
    ref: dict[str, Tensor] = field(default_factory=dict)
    """layer -> (B, C, H, W) features of the reference image; only the layers asked for."""
    test: dict[str, Tensor] = field(default_factory=dict)
    """The same of the test image."""


def check_layers(layers: Iterable[str]) -> tuple[str, ...]:
    """`layers` as a tuple; RequestError for a name that is not in `LAYERS`."""
    layers = tuple(layers)
    for layer in layers:
        if layer not in LAYERS:
            raise RequestError(f"expected layers among {', '.join(LAYERS)}, found {layer!r}{nearest(layer, LAYERS)}; correct the name")
    return layers
