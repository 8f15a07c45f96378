"""A target as a cache holds it: the one definition of its arrays, its identity and what is stored beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from configs.arrays import TargetSpec
from configs.errors import RequestError
from configs.schema import Config, TeacherConfig
from kdlosses.projection import draw_projection
from kdlosses.targets import Sizes, target
from models import TeacherSpec, network_sizes


def sizes_of(config: Config, teacher: TeacherSpec | TeacherConfig) -> Sizes:
    """What the targets of a teacher follow from in a run; of `teacher` counts the architecture and feature_bits.

    RequestError where phases draw projections of several seeds: a cached target is made with one.
    """
    terms = [term for phase in config.phases_or_one() if (term := phase.losses.projected_fidelity) is not None]
    seeds = sorted({term.seed for term in terms}) or [0]
    if len(seeds) > 1:
        raise RequestError(f"losses.projected_fidelity.seed: expected one over all phases, found {', '.join(map(str, seeds))}; set one")
    channels, numbers = network_sizes(teacher.architecture)
    student_channels, _ = network_sizes(config.student.architecture)
    return Sizes(channels, numbers, config.pairs, student_channels, teacher.feature_bits, seeds[0])


def target_spec(name: str, sizes: Sizes) -> TargetSpec:
    """The target as precompute adds it, training compares it and people read of it.

    Its identity is what its numbers depend on beside the pairs and the teacher. RequestError for an unknown name, or for a projected target
    without the student's channels.
    """
    row = target(name)
    arrays = row.shapes(row.layers, sizes)
    identity: dict[str, Any] = {"target": name, "version": row.version}
    if row.whole and sizes.feature_bits is not None:
        identity["feature_bits"] = sizes.feature_bits
        arrays = [replace(array, compress=True) for array in arrays]
    constants = {}
    if row.projected and sizes.student_channels is not None:
        drawn = draw_projection(sizes.projection_seed, sizes.student_channels, sizes.teacher_channels, row.layers)
        constants = {layer: matrix.numpy() for layer, matrix in drawn.items()}
        channels = {layer: sizes.student_channels[layer] for layer in row.layers}
        identity |= {"projection_seed": sizes.projection_seed, "student_channels": channels}
    doc = f"{row.doc} ({', '.join(row.layers)})" if row.layers else row.doc
    return TargetSpec(name, identity, tuple(arrays), constants, {"doc": doc, "needed_by": list(row.needed_by)})
