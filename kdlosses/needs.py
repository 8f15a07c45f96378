"""What a loss term needs, and how it takes a target: by name, or with an error that names term and target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from configs.errors import RunError


class Needs(NamedTuple):
    """Names of what must be at hand before a term is computed."""

    targets: tuple[str, ...] = ()
    """names of kdlosses.targets.TARGETS"""
    student_layers: tuple[str, ...] = ()
    """layers that the student's Outputs must carry"""


def merge(needs: Iterable[Needs], layer_order: Iterable[str], target_order: Iterable[str]) -> Needs:
    """What several terms need together, each name once, in the given orders."""
    terms = list(needs)
    targets = {name for term in terms for name in term.targets}
    layers = {name for term in terms for name in term.student_layers}
    return Needs(tuple(name for name in target_order if name in targets), tuple(name for name in layer_order if name in layers))


def pick(targets: Mapping[str, Tensor], key: str, term: str) -> Tensor:
    """targets[key] ("target/array") as float32. RunError if it is not there."""
    if key not in targets:
        target = key.split("/")[0]
        found = ", ".join(sorted(targets)) or "none"
        raise RunError(
            f"expected target '{key}' for loss term '{term}', found {found};"
            f" cache target '{target}' of this teacher or set train.teacher=online"
        )
    return targets[key].float()


class Networks(NamedTuple):
    """What a term may know about the networks when it is built."""

    student_channels: Mapping[str, int]
    teacher_channels: Mapping[str, int]
    """empty without a teacher"""
    numbers: int
    """numbers a proposal: 1 (ATOM) or 4 (DRNet)"""
