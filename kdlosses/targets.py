"""From a teacher's outputs to the numbers that losses need: one table for the code, `cache info` and the README.

Letters: B pairs, N proposals a pair, C channels, H W rows and columns of a layer's map, k the side of its target patch. Axes of stored
arrays start with the pair; an image axis of length 2 is (ref, test). F(U) = sum over channels of |U|.

Every number of a pair follows from that pair alone. What a loss normalises over the batch (the weights of the target response), it
composes from numbers a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs.errors import RequestError, nearest
from kdlosses.basic import abs_sum
from kdlosses.correlation import patch_size
from kdlosses.pairs import Pairs
from kdlosses.projection import Projection
from kdlosses.response import response
from kdlosses.rounding import round_mantissa
from models import LAYERS, STRIDES, Outputs

DEEP = ("layer2", "layer3")
SHALLOW = ("conv1", "layer1")


class TargetArray(NamedTuple):
    """One stored array of a target."""

    name: str
    shape: tuple[int, ...]
    """of one pair"""
    dtype: str
    doc: str

    @property
    def bytes(self) -> int:
        """of one pair, before compression"""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Sizes(NamedTuple):
    """What the shapes of the targets follow from."""

    channels: Mapping[str, int]
    """of the teacher's layers"""
    numbers: int
    """numbers a proposal: 1 (ATOM) or 4 (DRNet)"""
    proposals: int
    crop_size: int
    """in pixels"""
    student_channels: Mapping[str, int] | None

    def side(self, layer: str) -> int:
        """Side of the map of a layer."""
        return self.crop_size // STRIDES[layer]


@dataclass(frozen=True)
class Target:
    """One kind of teacher numbers, cached and recomputed as a whole. All of them belong to the images that the teacher saw."""

    name: str
    version: int
    """raised whenever a stored number changes its meaning; part of the cache's identity"""
    layers: tuple[str, ...]
    """layers of the teacher that it is made of"""
    needed_by: tuple[str, ...]
    """loss terms (configs.schema.Losses)"""
    doc: str
    shapes: Callable[[tuple[str, ...], Sizes], list[TargetArray]]
    numbers: Callable[[tuple[str, ...], Outputs, Pairs, Projection | None], dict[str, Tensor]]
    per_proposal: bool = False
    """whether row p of each array belongs to proposal p, so that new proposals need new numbers and fewer a part of them"""

    @property
    def projected(self) -> bool:
        """Whether it depends on a drawn projection, hence on the student's channels."""
        return self.name.startswith("projected")

    @property
    def whole(self) -> bool:
        """Whether it is whole features, which teacher.feature_bits rounds and compresses."""
        return self.name.startswith("features")

    @property
    def about(self) -> dict[str, Any]:
        """What people are told of it: the table's words, in `cache info` too."""
        return {"doc": f"{self.doc} ({', '.join(self.layers)})" if self.layers else self.doc, "needed_by": list(self.needed_by)}

    def identity(self, feature_bits: int | None) -> dict[str, Any]:
        """What its numbers depend on beside the pairs, the teacher and a projection; part of the cache's identity."""
        facts: dict[str, Any] = {"target": self.name, "version": self.version}
        return facts | {"feature_bits": feature_bits} if self.whole and feature_bits is not None else facts

    def arrays(
        self,
        channels: Mapping[str, int],
        numbers: int,
        proposals: int,
        crop_size: int,
        *,
        student_channels: Mapping[str, int] | None = None,
    ) -> list[TargetArray]:
        """The arrays that hold it.

        channels: layer -> channels of the teacher; numbers: 1 or 4 numbers a proposal; proposals: N; crop_size in pixels;
        student_channels: as channels, for projected targets only (RequestError without them).
        """
        return self.shapes(self.layers, Sizes(channels, numbers, proposals, crop_size, student_channels))


class Row(NamedTuple):
    """One line of the table of targets."""

    name: str
    version: int
    layers: tuple[str, ...]
    needed_by: tuple[str, ...]
    arrays: list[TargetArray]
    bytes: int
    """stored bytes a pair, before compression"""
    doc: str


def table(
    channels: Mapping[str, int],
    numbers: int,
    proposals: int,
    crop_size: int,
    *,
    student_channels: Mapping[str, int] | None = None,
    names: Iterable[str] | None = None,
) -> list[Row]:
    """The targets with their sizes (arguments as in `Target.arrays`); without student_channels the projected ones are left out."""
    chosen = [target(name) for name in (TARGETS if names is None else names)]
    rows = []
    for one in chosen:
        if one.projected and student_channels is None:
            continue
        arrays = one.arrays(channels, numbers, proposals, crop_size, student_channels=student_channels)
        size = sum(array.bytes for array in arrays)
        rows.append(Row(one.name, one.version, one.layers, one.needed_by, arrays, size, one.about["doc"]))
    return rows


def target(name: str) -> Target:
    """TARGETS[name]; RequestError with the nearest name if there is none."""
    if name not in TARGETS:
        raise RequestError(f"expected one of the targets {', '.join(TARGETS)}, found '{name}'{nearest(name, TARGETS)}; correct the name")
    return TARGETS[name]


def layers_of(names: Iterable[str]) -> tuple[str, ...]:
    """The layers that the teacher must return for these targets, in the order of models.LAYERS."""
    needed = {layer for name in names for layer in target(name).layers}
    return tuple(layer for layer in LAYERS if layer in needed)


@torch.no_grad()
def compute(
    names: Iterable[str], outputs: Outputs, pairs: Pairs, projection: Projection | None = None, feature_bits: int | None = None
) -> dict[str, Tensor]:
    """Teacher numbers of a batch: precompute stores them, the online teacher hands them to the losses at once.

    outputs: of the teacher, with the layers `layers_of(names)`. projection: layer -> P (C of the teacher, C of the student), for projected
    targets (RequestError without it). feature_bits: teacher.feature_bits. Returns "target/array" -> float32, leading dim B; row b depends
    on pair b alone.
    """
    found: dict[str, Tensor] = {}
    with torch.autocast(outputs.prediction.device.type, enabled=False):
        for name in names:
            one = target(name)
            missing = [layer for layer in one.layers if layer not in outputs.test]
            if missing:
                raise RequestError(
                    f"expected teacher features of {', '.join(missing)} for target '{name}', found {', '.join(outputs.test) or 'none'};"
                    " ask the teacher for layers_of(targets)"
                )
            found |= {f"{name}/{key}": value.detach().float() for key, value in one.numbers(one.layers, outputs, pairs, projection).items()}
    return round_features(found, feature_bits)


def round_features(found: Mapping[str, Tensor], feature_bits: int | None) -> dict[str, Tensor]:
    """What `compute` gives without feature_bits -> what it gives with them: whole features rounded, everything else as it is."""
    if feature_bits is None:
        return dict(found)
    return {key: round_mantissa(value, feature_bits).float() if target(key.split("/")[0]).whole else value for key, value in found.items()}


def _iou_shapes(layers: tuple[str, ...], sizes: Sizes) -> list[TargetArray]:
    shape = (sizes.proposals,) if sizes.numbers == 1 else (sizes.proposals, sizes.numbers)
    return [TargetArray("iou", shape, "float16", "prediction of each proposal")]


def _iou(layers: tuple[str, ...], outputs: Outputs, pairs: Pairs, projection: Projection | None) -> dict[str, Tensor]:
    return {"iou": outputs.prediction}


def _abs_sum_shapes(layers: tuple[str, ...], sizes: Sizes) -> list[TargetArray]:
    return [TargetArray(layer, (2, sizes.side(layer), sizes.side(layer)), "float16", "F(ref), F(test)") for layer in layers]


def _abs_sum(layers: tuple[str, ...], outputs: Outputs, pairs: Pairs, projection: Projection | None) -> dict[str, Tensor]:
    return {layer: torch.stack([abs_sum(outputs.ref[layer]), abs_sum(outputs.test[layer])], 1) for layer in layers}


def _response_shapes(layers: tuple[str, ...], sizes: Sizes) -> list[TargetArray]:
    arrays = []
    for layer in layers:
        side, k = sizes.side(layer), patch_size(sizes.crop_size, STRIDES[layer])
        arrays.append(TargetArray(f"{layer}_weighted", (side, side), "float16", "F(test) |weight| over its maximum, in [0, 1]"))
        arrays.append(TargetArray(f"{layer}_patch", (k, k), "float16", "F(patch)"))
    arrays.append(TargetArray("scale", (len(layers),), "float32", "that maximum, a layer"))
    arrays.append(TargetArray("weight_sum", (len(layers),), "float32", "sum of the weights, a layer"))
    return arrays


def _response(weights: str) -> Callable[[tuple[str, ...], Outputs, Pairs, Projection | None], dict[str, Tensor]]:
    def numbers(layers: tuple[str, ...], outputs: Outputs, pairs: Pairs, projection: Projection | None) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        scales, sums = [], []
        for layer in layers:
            one = response(outputs.ref[layer].float(), outputs.test[layer].float(), pairs, STRIDES[layer], weights)
            # F(test) |Q| reaches millions: stored over its maximum, because float16 ends at 65,504
            peak = one.weighted.amax((1, 2))
            scale = torch.where(peak > 0, peak, 1.0)
            found[f"{layer}_weighted"] = one.weighted / scale[:, None, None]
            found[f"{layer}_patch"] = one.patch
            scales.append(scale)
            sums.append(one.weight_sum)
        return found | {"scale": torch.stack(scales, 1), "weight_sum": torch.stack(sums, 1)}

    return numbers


def _projected_shapes(layers: tuple[str, ...], sizes: Sizes) -> list[TargetArray]:
    if sizes.student_channels is None:
        raise RequestError("expected the student's channels for a projected target, found none; pass student_channels")
    channels = sizes.student_channels
    maps = [TargetArray(layer, (2, channels[layer], sizes.side(layer), sizes.side(layer)), "float16", "P^T t") for layer in layers]
    return [*maps, TargetArray("mean_square", (2, len(layers)), "float32", "mean of t^2, a layer")]


def _projected(layers: tuple[str, ...], outputs: Outputs, pairs: Pairs, projection: Projection | None) -> dict[str, Tensor]:
    if projection is None:
        raise RequestError("expected the projection for a projected target, found none; pass draw_projection(...)")
    both = {layer: torch.stack([outputs.ref[layer], outputs.test[layer]], 1).float() for layer in layers}
    found = {layer: torch.einsum("ts,bithw->bishw", projection[layer].to(both[layer]), both[layer]) for layer in layers}
    return found | {"mean_square": torch.stack([both[layer].square().mean((2, 3, 4)) for layer in layers], 2)}


def _features_shapes(layers: tuple[str, ...], sizes: Sizes) -> list[TargetArray]:
    channels = sizes.channels
    return [TargetArray(layer, (2, channels[layer], sizes.side(layer), sizes.side(layer)), "float16", "ref, test") for layer in layers]


def _features(layers: tuple[str, ...], outputs: Outputs, pairs: Pairs, projection: Projection | None) -> dict[str, Tensor]:
    return {layer: torch.stack([outputs.ref[layer], outputs.test[layer]], 1) for layer in layers}


_ALL = tuple(LAYERS)
TARGETS: dict[str, Target] = {
    one.name: one
    for one in (
        Target("iou", 1, (), ("teacher_soft", "adaptive_hard", "mutual_students"), "prediction of each proposal", _iou_shapes, _iou, True),
        Target("abs_sum", 1, DEEP, ("fidelity",), "channel-summed absolute features", _abs_sum_shapes, _abs_sum),
        Target("abs_sum_shallow", 1, SHALLOW, ("fidelity",), "channel-summed absolute features", _abs_sum_shapes, _abs_sum),
        Target("response", 1, _ALL, ("target_response",), "features times their correlation", _response_shapes, _response("correlation")),
        Target("response_gaussian", 1, _ALL, ("target_response",), "features times a Gaussian", _response_shapes, _response("gaussian")),
        Target("projected", 1, DEEP, ("projected_fidelity",), "features seen through the fixed projection", _projected_shapes, _projected),
        Target(
            "projected_shallow",
            1,
            SHALLOW,
            ("projected_fidelity",),
            "features seen through the fixed projection",
            _projected_shapes,
            _projected,
        ),
        Target("features", 1, DEEP, ("projected_fidelity",), "whole features, for a trained projection", _features_shapes, _features),
        Target(
            "features_shallow", 1, SHALLOW, ("projected_fidelity",), "whole features, for a trained projection", _features_shapes, _features
        ),
    )
}


def by_layer(kind: str, layers: Iterable[str]) -> dict[str, str]:
    """layer -> the target of a kind (abs_sum, projected, features) that holds it."""
    return {layer: kind if layer in DEEP else f"{kind}_shallow" for layer in layers}
