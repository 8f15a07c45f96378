"""From a teacher's outputs to the numbers that losses need: one table for the code, `cache info` and the documents.

Letters: B pairs, N proposals a pair, C channels, H W rows and columns of a layer's map of one image, k the side of its target patch. Axes
of stored arrays start with the pair. F(U) = sum over channels of |U|. Ref and test may differ in size, so maps are stored an image:
`layer2_ref`, `layer2_test`.

Every number of a pair follows from that pair alone. What a loss normalises over the batch (the weights of the target response), it
composes from numbers a pair. A target is a function of its shapes, one of its numbers, and a row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from configs.arrays import Array
from configs.errors import RequestError
from configs.schema import ImageConfig, Losses, PairsConfig
from kdlosses.basic import abs_sum
from kdlosses.kinds import KINDS, Kind, kind
from kdlosses.modules import MODULES
from kdlosses.projection import Projection
from kdlosses.response import response
from kdlosses.ridge import ridge_answer
from kdlosses.rounding import round_mantissa
from models import LAYERS, STRIDES, Outputs
from pairs.batch import Boxes
from pairs.geometry import target_cells

Layers = tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """What shapes and identities of targets follow from, beside the teacher's weights and the pair set."""

    teacher_channels: Mapping[str, int]
    """layer -> channels"""
    numbers: int
    """numbers a proposal: 1 (ATOM) or 4 (DRNet)"""
    pairs: PairsConfig
    student_channels: Mapping[str, int] | None = None
    """for projected targets only"""
    feature_bits: int | None = None
    """mantissa bits of whole features; None: all of float16"""
    projection_seed: int = 0


class Seen(NamedTuple):
    """What numbers are made of."""

    outputs: Outputs
    """of the teacher"""
    boxes: Boxes
    projection: Projection | None


Shapes = Callable[[Layers, Sizes], list[Array]]
Numbers = Callable[[Layers, Seen], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Target(Kind):
    """A kind of teacher numbers with its functions."""

    shapes: Shapes
    """the arrays of one pair"""
    numbers: Numbers
    """array -> (B, ...)"""

    @property
    def needed_by(self) -> tuple[str, ...]:
        """Names of the loss terms that ask for it with some options."""
        return tuple(name for name, section in Losses.sections().items() if self.name in MODULES[section].reads)


def target(name: str) -> Target:
    """TARGETS[name]; RequestError with the nearest name if there is none."""
    return TARGETS[kind(name).name]


def layers_of(names: Iterable[str]) -> Layers:
    """The layers that the teacher must return for these targets, in the order of models.LAYERS."""
    needed = {layer for name in names for layer in target(name).layers}
    return tuple(layer for layer in LAYERS if layer in needed)


@torch.no_grad()
def compute(
    names: Iterable[str], outputs: Outputs, boxes: Boxes, projection: Projection | None = None, feature_bits: int | None = None
) -> dict[str, Tensor]:
    """Teacher numbers of a batch: precompute stores them, the live teacher hands them to the losses at once.

    outputs: of the teacher, with the layers `layers_of(names)`. projection: layer -> P (C of the teacher, C of the student), for projected
    targets (RequestError without it). feature_bits: teacher.feature_bits. Returns "target/array" -> float32, leading dim B; row b depends
    on pair b alone.
    """
    computed: dict[str, Tensor] = {}
    with torch.autocast(outputs.prediction.device.type, enabled=False):
        for row in map(target, names):
            missing = [layer for layer in row.layers if layer not in outputs.test]
            if missing:
                raise RequestError(
                    f"expected teacher features of {', '.join(missing)} for target '{row.name}', found {', '.join(outputs.test) or 'none'};"
                    " ask the teacher for layers_of(targets)"
                )
            arrays = row.numbers(row.layers, Seen(outputs, boxes, projection))
            computed |= {f"{row.name}/{array}": value.detach().float() for array, value in arrays.items()}
    return round_features(computed, feature_bits)


def round_features(exact: Mapping[str, Tensor], feature_bits: int | None) -> dict[str, Tensor]:
    """What `compute` gives without feature_bits -> what it gives with them: whole features rounded, everything else as it is."""
    if feature_bits is None:
        return dict(exact)
    return {key: round_mantissa(value, feature_bits).float() if target(key.split("/")[0]).whole else value for key, value in exact.items()}


def _side(image: ImageConfig, layer: str) -> int:
    """Side of the map of a layer."""
    return image.size // STRIDES[layer]


def _map_shapes(layers: Layers, sizes: Sizes, doc: str, channels: Mapping[str, int] | None = None) -> list[Array]:
    """A map of each layer and image; without `channels` it has no axis of them."""
    arrays = []
    for layer in layers:
        for image, geometry in (("ref", sizes.pairs.ref), ("test", sizes.pairs.test)):
            side = _side(geometry, layer)
            shape = (side, side) if channels is None else (channels[layer], side, side)
            arrays.append(Array(f"{layer}_{image}", shape, "float16", f"{doc} of {image}"))
    return arrays


def _maps(layers: Layers, seen: Seen, number: Callable[[Tensor, str], Tensor]) -> dict[str, Tensor]:
    """number(features, layer) of each layer and image: those that `_map_shapes` describes."""
    images = (("ref", seen.outputs.ref), ("test", seen.outputs.test))
    return {f"{layer}_{image}": number(features[layer].float(), layer) for layer in layers for image, features in images}


def _iou_shapes(layers: Layers, sizes: Sizes) -> list[Array]:
    shape = (sizes.pairs.proposals,) if sizes.numbers == 1 else (sizes.pairs.proposals, sizes.numbers)
    return [Array("iou", shape, "float16", "prediction of each proposal")]


def _iou(layers: Layers, seen: Seen) -> dict[str, Tensor]:
    return {"iou": seen.outputs.prediction}


def _abs_sum_shapes(layers: Layers, sizes: Sizes) -> list[Array]:
    return _map_shapes(layers, sizes, "F")


def _abs_sum(layers: Layers, seen: Seen) -> dict[str, Tensor]:
    return _maps(layers, seen, lambda features, layer: abs_sum(features))


def _response_shapes(layers: Layers, sizes: Sizes) -> list[Array]:
    arrays = []
    for layer in layers:
        side, k = _side(sizes.pairs.test, layer), target_cells(sizes.pairs.test, STRIDES[layer])
        arrays.append(Array(f"{layer}_weighted", (side, side), "float16", "F(test) |weight| over its maximum, in [0, 1]"))
        arrays.append(Array(f"{layer}_patch", (k, k), "float16", "F(patch)"))
    arrays.append(Array("scale", (len(layers),), "float32", "that maximum, a layer"))
    arrays.append(Array("weight_sum", (len(layers),), "float32", "sum of the weights, a layer"))
    return arrays


def _response(layers: Layers, seen: Seen, weights: str = "correlation") -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    scales, sums = [], []
    for layer in layers:
        numbers = response(seen.outputs.ref[layer].float(), seen.outputs.test[layer].float(), seen.boxes, STRIDES[layer], weights)
        # F(test) |Q| reaches millions: stored over its maximum, because float16 ends at 65,504
        peak = numbers.weighted.amax((1, 2))
        scale = torch.where(peak > 0, peak, 1.0)
        arrays[f"{layer}_weighted"] = numbers.weighted / scale[:, None, None]
        arrays[f"{layer}_patch"] = numbers.patch
        scales.append(scale)
        sums.append(numbers.weight_sum)
    return arrays | {"scale": torch.stack(scales, 1), "weight_sum": torch.stack(sums, 1)}


def _projected_shapes(layers: Layers, sizes: Sizes) -> list[Array]:
    if sizes.student_channels is None:
        raise RequestError("expected the student's channels for a projected target, found none; give Sizes its student_channels")
    maps = _map_shapes(layers, sizes, "P^T t", sizes.student_channels)
    return [*maps, Array("mean_square", (2, len(layers)), "float32", "mean of t^2 of (ref, test), a layer")]


def _projected(layers: Layers, seen: Seen) -> dict[str, Tensor]:
    projection = seen.projection
    if projection is None:
        raise RequestError("expected the projection for a projected target, found none; pass draw_projection(...)")
    maps = _maps(layers, seen, lambda features, layer: torch.einsum("ts,bthw->bshw", projection[layer].to(features), features))
    squares = [[features[layer].float().square().mean((1, 2, 3)) for layer in layers] for features in (seen.outputs.ref, seen.outputs.test)]
    return maps | {"mean_square": torch.stack([torch.stack(image, 1) for image in squares], 1)}


def _features_shapes(layers: Layers, sizes: Sizes) -> list[Array]:
    return _map_shapes(layers, sizes, "features", sizes.teacher_channels)


def _features(layers: Layers, seen: Seen) -> dict[str, Tensor]:
    return _maps(layers, seen, lambda features, layer: features)


def _classifier_shapes(layers: Layers, sizes: Sizes) -> list[Array]:
    sides = {layer: _side(sizes.pairs.test, layer) for layer in layers}
    return [Array(f"{layer}_test", (side, side), "float16", "the classifier's answer on test") for layer, side in sides.items()]


def _classifier(layers: Layers, seen: Seen) -> dict[str, Tensor]:
    ref, test = seen.outputs.ref, seen.outputs.test
    return {f"{layer}_test": ridge_answer(ref[layer].float(), test[layer].float(), seen.boxes, STRIDES[layer]) for layer in layers}


_FUNCTIONS: dict[str, tuple[Shapes, Numbers]] = {
    "iou": (_iou_shapes, _iou),
    "abs_sum": (_abs_sum_shapes, _abs_sum),
    "response": (_response_shapes, _response),
    "response_gaussian": (_response_shapes, partial(_response, weights="gaussian")),
    "classifier": (_classifier_shapes, _classifier),
    "projected": (_projected_shapes, _projected),
    "features": (_features_shapes, _features),
}
"""Kind of target, those of both groups of layers together -> its shapes, its numbers"""


def _with_functions(row: Kind) -> Target:
    shapes, numbers = _FUNCTIONS[row.name.removesuffix("_shallow")]
    return Target(**vars(row), shapes=shapes, numbers=numbers)


TARGETS: dict[str, Target] = {name: _with_functions(row) for name, row in KINDS.items()}
