"""The targets there are: what is known of each before any network is. No torch, so that a wrong name is answered at once.

`kdlosses.targets` gives each its shapes and its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from configs.errors import RequestError, nearest
from configs.schema import Losses
from configs.section import LAYERS

DEEP, SHALLOW = LAYERS[2:], LAYERS[:2]


@dataclass(frozen=True)
class Kind:
    """One kind of teacher numbers, cached and recomputed as a whole. All of them belong to the images that the teacher saw."""

    name: str
    doc: str
    layers: tuple[str, ...] = ()
    """layers of the teacher that it is made of"""
    version: int = 1
    """raised whenever a stored number changes its meaning; part of the cache's identity"""
    per_proposal: bool = False
    """whether row p of each array belongs to proposal p, so that new proposals need new numbers and fewer a part of them"""
    projected: bool = False
    """whether it depends on a drawn projection, hence on the student's channels"""
    whole: bool = False
    """whether it is whole features, which teacher.feature_bits rounds and compresses"""


def _deep_and_shallow(row: Kind) -> tuple[Kind, Kind]:
    """A kind for each group of layers that is stored together, see `needs.by_layer`."""
    return replace(row, layers=DEEP), replace(row, name=f"{row.name}_shallow", layers=SHALLOW)


_ROWS = (
    Kind("iou", "prediction of each proposal", per_proposal=True),
    *_deep_and_shallow(Kind("abs_sum", "channel-summed absolute features", version=2)),
    Kind("response", "features times their correlation", LAYERS),
    Kind("response_gaussian", "features times a Gaussian", LAYERS),
    Kind("classifier", "answer of a classifier learnt on the ref features", DEEP),
    *_deep_and_shallow(Kind("projected", "features seen through the fixed projection", version=2, projected=True)),
    *_deep_and_shallow(Kind("features", "whole features, for a trained projection", version=2, whole=True)),
)
KINDS: dict[str, Kind] = {row.name: row for row in _ROWS}


def needs_teacher(losses: Losses) -> bool:
    """Whether a term of an objective needs numbers of the teacher, as the modules of the terms say once torch is there."""
    alone = ("ground_truth", "correlation_filter", "tracking")
    return any(name not in alone and getattr(term, "wanted", "teacher") == "teacher" for name, term in losses.active().items())


def kind(name: str) -> Kind:
    """KINDS[name]; RequestError with the nearest name if there is none."""
    if name not in KINDS:
        raise RequestError(f"expected one of the targets {', '.join(KINDS)}, found '{name:.80}'{nearest(name, KINDS)}; correct the name")
    return KINDS[name]
