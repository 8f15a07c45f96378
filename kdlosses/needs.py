"""What a loss term is to the objective: a module that declares what it needs and takes it by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from configs.errors import RunError
from configs.schema import Term
from kdlosses.kinds import DEEP, SHALLOW
from models import Outputs, same_format

Section = TypeVar("Section", bound=Term)


class Needs(NamedTuple):
    """Names of what must be at hand before a term is computed."""

    targets: tuple[str, ...] = ()
    """names of kdlosses.targets.TARGETS"""
    student_layers: tuple[str, ...] = ()
    """layers that the student's Outputs must carry"""


class Networks(NamedTuple):
    """What a term may know about the networks when it is built."""

    student_channels: Mapping[str, int]
    teacher_channels: Mapping[str, int]
    """empty without a teacher"""
    numbers: int
    """numbers a proposal: 1 (ATOM) or 4 (DRNet)"""


class TermModule(nn.Module, Generic[Section]):
    """One term of an objective, made from its section of the configuration.

    forward(outputs, targets, boxes): of the student, with needs.student_layers; of the teacher, "target/array" -> (B, ...), those of
    needs.targets and no other; returns a scalar. An error that it raises is given the term's name by the objective.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    """every target that it needs with some options"""
    students: ClassVar[int] = 1
    """2: forward(outputs, targets, boxes, epoch) takes (dull, intelligent) and the epoch, from 0, and returns named scalars"""

    def __init__(self, term: Section, networks: Networks) -> None:
        super().__init__()
        self.term, self.numbers = term, networks.numbers
        self.needs = Needs(self.reads, getattr(term, "layers", ()))
        """what it needs with its own options; a term that does not need all that it `reads` narrows it"""


def stored_with(layer: str) -> tuple[str, ...]:
    """The layers that a target of a kind (abs_sum, projected, features) holds together, this one among them."""
    return DEEP if layer in DEEP else SHALLOW


def by_layer(kind: str, layers: Iterable[str]) -> dict[str, str]:
    """layer -> the target of such a kind that holds it."""
    return {layer: kind if stored_with(layer) is DEEP else f"{kind}_shallow" for layer in layers}


def target_of(targets: Mapping[str, Tensor], key: str) -> Tensor:
    """targets[key] ("target/array") as float32. RunError if it is not there."""
    if key not in targets:
        raise RunError(
            f"expected target '{key}', found {', '.join(sorted(targets)) or 'none'};"
            f" cache target '{key.split('/')[0]}' of this teacher or set train.teacher=online"
        )
    return targets[key].float()


def student_maps(outputs: Outputs, layers: Iterable[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, ref map, test map) of each layer, (B, C, H, W) float32; gradients take their memory format.

    RunError if the student was not asked for one.
    """
    for layer in layers:
        if layer not in outputs.ref or layer not in outputs.test:
            raise RunError(
                f"expected student features of '{layer}', found {', '.join(outputs.ref) or 'none'};"
                " call the student with layers=objective.needs.student_layers"
            )
        yield layer, same_format(outputs.ref[layer].float()), same_format(outputs.test[layer].float())
