"""Which teacher, with which weights, and how the cache names and recognises it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from configs.errors import RequestError
from configs.schema import Config
from configs.schema import Teacher as TeacherSection
from kdlosses import targets as target_table
from kdlosses.objectives import build_objective
from kdlosses.projection import Projection, draw_projection
from models.preprocess import VERSION as PREPROCESS_VERSION


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher that can be loaded: its section of the configuration with every blank filled."""

    name: str
    """of its group in the cache"""
    architecture: str
    weights: Path
    digest: str
    """SHA-256 of the weights file"""
    dtype: str
    batch: int
    feature_bits: int | None = None
    """of the targets that are whole features; null: all of float16"""

    def identity(self) -> dict[str, Any]:
        """What changes the teacher's numbers; part of the cache's identity."""
        return {
            "architecture": self.architecture,
            "weights_sha256": self.digest,
            "dtype": self.dtype,
            "preprocess_version": PREPROCESS_VERSION,
        }

    def load(self, device: torch.device) -> models.Teacher:
        """The frozen network on the device. RequestError if the weights are of another network."""
        tracker = models.build(self.architecture)
        models.load_weights(tracker, self.weights)
        return models.Teacher(tracker, self.dtype).to(device)


def choose(section: TeacherSection) -> TeacherChoice:
    """The teacher that the configuration asks for; without weights the bundled demo teacher, with a warning on stderr.

    Raises:
        RequestError: weights that are not there, or none given for a network that the demo teacher cannot stand in for.
    """
    architecture, weights = section.architecture, section.weights
    if weights is None:
        if not architecture.startswith("atom_"):
            raise RequestError(f"teacher: expected weights for {architecture}, found none; pass TEACHER=checkpoint.pth")
        architecture, weights = "atom_resnet18medium", str(models.DEMO_TEACHER)
        print(
            f"warning: teacher: expected weights for {section.architecture} (TEACHER=checkpoint.pth), found none; goes on with the bundled"
            " demo teacher (atom_resnet18medium, trained on generated video): good for trials, not for results",
            file=sys.stderr,
        )
    path = Path(weights)
    if not path.is_file():
        raise RequestError(f"teacher: expected a weights file, found none at {path}; correct TEACHER= or teacher.weights")
    if architecture not in models.ARCHITECTURES:
        models.build(architecture)  # raises with the nearest name
    name, digest = section.name or architecture, models.weights_digest(path)
    return TeacherChoice(name, architecture, path, digest, section.dtype, section.batch, section.feature_bits)


@dataclass(frozen=True)
class TargetPlan:
    """One target to be cached: its arrays, its identity and the numbers that are stored once beside it."""

    name: str
    arrays: list[target_table.TargetArray]
    identity: dict[str, Any]
    projection: Projection | None
    feature_bits: int | None = None
    """mantissa bits of whole features, which are compressed then; None for every other target"""

    @property
    def pair_bytes(self) -> int:
        """Stored bytes a pair, before compression."""
        return sum(array.bytes for array in self.arrays)


def needed_targets(config: Config) -> tuple[str, ...]:
    """The targets that a setting's objectives read, in the order of the table."""
    if config.teacher is None:
        return ()
    student, teacher = models.build(config.student.architecture), models.build(config.teacher.architecture)
    needed: set[str] = set()
    for phase in config.phases_or_one():
        needed |= set(build_objective(phase.losses, student.channels, teacher.channels, student.numbers).needs.targets)
    return tuple(name for name in target_table.TARGETS if name in needed)


def plan_targets(config: Config, teacher: TeacherChoice, wanted: Sequence[str]) -> list[TargetPlan]:
    """What each wanted target stores for this teacher (and, for projected ones, this student and projection seed)."""
    channels, numbers = models.network_sizes(teacher.architecture)
    student_channels, _ = models.network_sizes(config.student.architecture)
    plans = []
    for name in wanted:
        target = target_table.target(name)
        arrays = target.arrays(
            channels,
            numbers,
            config.pairs.proposals,
            config.pairs.crop_size,
            student_channels=student_channels if target.projected else None,
        )
        identity = target.identity(teacher.feature_bits)
        projection = None
        if target.projected:
            seed = next((loss.seed for phase in config.phases_or_one() if (loss := phase.losses.projected_fidelity)), 0)
            projection = draw_projection(seed, student_channels, channels)
            identity |= {"projection_seed": seed, "student_channels": {layer: student_channels[layer] for layer in target.layers}}
        plans.append(TargetPlan(name, arrays, identity, projection, teacher.feature_bits if target.whole else None))
    return plans
