"""The teacher: which network with which weights, what makes its numbers, and the frozen network itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.errors import RequestError
from configs.schema import TeacherConfig
from models.checkpoint import load_weights, weights_digest
from models.files import require_teacher, require_weights
from models.outputs import Outputs
from models.tracker import PARTS, Tracker, blueprint, build
from pairs.decode import PREPROCESS_VERSION

DEMO_TEACHER = Path(__file__).parent / "demo_teacher" / "atom_resnet18medium.safetensors"
"""Trained on the demo's generated video: lets the commands be tried without a public checkpoint. Its stem is its architecture."""
_DEMO = f"bundled demo teacher ({DEMO_TEACHER.stem}, trained on generated video): good for trials, not for results"


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher: every blank of its section of the configuration filled."""

    name: str
    """of its group in a cache"""
    architecture: str
    weights: Path | None
    """its file; None where it is not at hand"""
    digest: str
    """SHA-256 of that file; empty where unknown"""
    dtype: str
    batch: int
    """pairs a forward pass in precompute"""
    feature_bits: int | None
    """mantissa bits of the targets that are whole features; None: all of float16"""
    note: str = ""
    """a line for the user, where something is not as the configuration says"""

    def identity(self) -> dict[str, Any]:
        """What changes the teacher's numbers: part of the identity of its targets in a cache."""
        return {
            "architecture": self.architecture,
            "weights_sha256": self.digest,
            "dtype": self.dtype,
            "preprocess_version": PREPROCESS_VERSION,
        }

    def load(self, device: torch.device) -> TeacherNetwork:
        """The frozen network on the device. RequestError without weights, or if they are of another network."""
        if self.weights is None:
            raise RequestError(f"teacher {self.name}: expected its weights, found none at hand; give teacher.weights=FILE")
        tracker = build(self.architecture)
        load_weights(tracker, self.weights)
        return TeacherNetwork(tracker, self.dtype).to(device)


def choose_teacher(section: TeacherConfig) -> TeacherSpec:
    """The teacher that the configuration asks for; without weights the bundled demo teacher, with a warning as its note.

    Raises:
        RequestError: weights that are not there, or none given for a network that the demo teacher cannot stand in for.
    """
    require_teacher(section)
    if section.weights is not None:
        return _spec(section, section.architecture, Path(section.weights))
    note = f"warning: teacher: expected weights for {section.architecture} (TEACHER=checkpoint.pth), found none; goes on with the {_DEMO}"
    return replace(_spec(section, DEMO_TEACHER.stem, DEMO_TEACHER), note=note)


def demo_teacher(section: TeacherConfig) -> TeacherSpec:
    """The bundled teacher under its own name, whose targets in a cache stand in for those of the teacher asked for (its note says so)."""
    note = f"warning: teacher: expected {section.architecture}, found no targets of it; goes on with those of the {_DEMO}"
    return replace(_spec(section, DEMO_TEACHER.stem, DEMO_TEACHER), name=DEMO_TEACHER.stem, note=note)


def _spec(section: TeacherConfig, architecture: str, weights: Path) -> TeacherSpec:
    require_weights(weights)
    blueprint(architecture)  # an unknown one is refused with the nearest name
    digest, name = weights_digest(weights), section.name or architecture
    return TeacherSpec(name, architecture, weights, digest, section.dtype, section.batch, section.feature_bits)


class TeacherNetwork(nn.Module):
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

    def train(self, mode: bool = True) -> TeacherNetwork:
        # A cached target may not depend on which other pairs shared its batch, so BatchNorm never uses batch statistics here.
        super().train(False)
        return self

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
