"""The trackers by name: rows that the schema checks names against and `models.build` builds. Here, so that no name needs torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """What `models.build` builds."""

    backbone: str
    """A row of `models.BACKBONES`."""
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
