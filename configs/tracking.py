"""The section `tracking`: an online tracker around a network, ATOM's (arXiv:1811.07628) or DRNet's, with the published numbers as defaults.

Lengths are in sides of the target, s = sqrt(w * h), or in cells of the classifier's map, so that they mean the same in a crop of any size.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.overrides import merge
from configs.section import Few, Layer, Section, Seed, Text, Weight

Share = Annotated[float, Field(ge=0, le=1)]
CropSide = Annotated[int, Field(ge=32, le=4096, multiple_of=16)]
AreaFactor = Annotated[float, Field(gt=1, le=100)]
Sigma = Annotated[float, Field(gt=0, le=10)]

VARIANTS: dict[str, dict[str, Any]] = {
    "atom": {},
    "atom_vot": {
        "size": 224,
        "area_factor": 4.0,
        "classifier": {"learning_rate": 0.0075},
        "localisation": {"window": True, "not_found": -1.0, "distractor": 100.0, "hard_negative": 0.3, "displacement": 0.7},
    },
    "drnet": {
        "size": 320,
        "area_factor": 5.5,
        "classifier": {
            "label_sigmas": (1 / 3, 1 / 4),
            "first_rounds": 10,
            "learning_rate": 0.0075,
            "hard_learning_rate": 0.0075,
        },
        "localisation": {"window": True, "not_found": -1.0, "distractor": 100.0, "hard_negative": 0.3, "displacement": 0.9},
    },
}
"""Variant -> where its published numbers differ from the defaults of this file, which are those of ATOM."""


class ClassifierConfig(Section):
    """The online classifier, a projection and a filter that are learnt in the first frame: where the target roughly is."""

    checkpoint: Text | None = Field(None, description="a network of its own for the features; null: the tracker's")
    layer: Layer = Field("layer3", description="the features it looks at")
    size: CropSide | None = Field(None, description="side of its crop; null: that of the tracker")
    area_factor: AreaFactor | None = Field(None, description="side of its crop over sqrt(w*h); null: that of the tracker")
    projection: Few | None = Field(None, description="channels after the projection; null: 64 for heads of width 256, else 32 (students)")
    kernel: int = Field(4, ge=1, le=64, description="side of the filter, in cells")
    label_sigmas: tuple[Sigma, ...] = Field((0.25,), min_length=1, max_length=8, description="of the labels, in s; one filter for each")
    label_cells: float = Field(0.9, gt=0, le=100, description="least sigma of a label in cells: a narrower peak falls between the cells")
    filter_regularisation: float = Field(0.1, gt=0, description="weight of the filter's squares")
    projection_regularisation: float = Field(1e-4, gt=0, description="weight of the projection's squares")
    first_rounds: Few = Field(6, description="Gauss-Newton rounds in the first frame, filter and projection together")
    first_steps: Few = Field(10, description="conjugate-gradient steps of each of them")
    steps: Few = Field(5, description="conjugate-gradient steps of a later update, the filter alone")
    every: Few = Field(10, description="frames between two updates; on a hard negative at once")
    memory: Few = Field(250, description="samples that are kept; the lightest one makes room")
    first_share: Share = Field(0.25, description="least share of the first frame's samples in all weights")
    learning_rate: Share = Field(0.01, description="weight of a new sample among all")
    hard_learning_rate: Share = Field(0.02, description="the same of a hard negative")
    augment: bool = Field(True, description="first frame: 30 shifted, mirrored, blurred, rotated and thinned samples; false: it alone")


class LocalisationConfig(Section):
    """From the classifier's response to a position and a state."""

    window: bool = Field(False, description="multiply the response by a Hann window around the last position")
    not_found: float = Field(0.25, ge=-1, le=100, description="below it the target is not found and the box stays (-1: never)")
    distractor: float = Field(0.8, ge=0, description="a second peak above this share of the first is a rival of it")
    hard_negative: float = Field(0.5, ge=0, description="a second peak above this share is learnt from at once")
    neighbourhood: float = Field(2.2, gt=0, le=100, description="the second peak lies outside this many sides of the target")
    displacement: float = Field(0.8, ge=0, description="a rival this far away, in half crop sides, is not the target")


class RefinementConfig(Section):
    """The box, by climbing the gradient of the predicted IoU (ATOM). DRNet answers with its box at once."""

    boxes: Few = Field(10, description="boxes that climb: the last size at the new position, and random ones around it")
    position_jitter: Weight = Field(0.1, le=10, description="range of the position of the random ones, in s")
    size_jitter: Weight = Field(0.5, le=10, description="range of their width and height, in s")
    steps: int = Field(5, ge=0, le=1000, description="steps of the ascent")
    step: float = Field(1.0, gt=0, le=1000, description="its length; 1 is the published one, for a target of 57.6 px, scaled to its side")
    top_k: Few = Field(3, description="the mean of as many boxes with the highest predicted IoU is the answer")
    size_rate: Share = Field(
        1.0,
        description="share of the change of size, in its logarithm, that is taken each frame; below 1 a weak network's error grows slower",
    )
    max_aspect: float = Field(6.0, gt=1, description="a more elongated box is left out")


class TrackingConfig(Section):
    """The online tracker."""

    variant: Literal["atom", "atom_vot", "drnet"] = Field("atom", description="whose published numbers are the defaults of what follows")
    size: CropSide = Field(288, description="side of the crop that the network sees, in pixels")
    area_factor: AreaFactor = Field(5.0, description="side of the crop over sqrt(w*h) of the target")
    reading: Literal["resize", "subsample"] = Field(
        "resize", description="resize: as the training crops; subsample: every n-th pixel of a large crop before, as the published trackers"
    )
    seed: Seed = Field(0, description="of the shifts, the thinning, the projection and the random boxes")
    min_side: float = Field(10.0, gt=0, description="least side of a box, in frame pixels, unless the first is smaller")
    inside: Share = Field(0.2, description="least share of the box, on each axis, that stays inside the frame")
    classifier: ClassifierConfig = Field(default_factory=ClassifierConfig, description="where the target roughly is")
    localisation: LocalisationConfig = Field(default_factory=LocalisationConfig, description="from response to position and state")
    refinement: RefinementConfig = Field(default_factory=RefinementConfig, description="from position to box")

    @model_validator(mode="before")
    @classmethod
    def _of_variant(cls, value: Any) -> Any:
        """The variant's numbers below those that are given."""
        variant = value.get("variant", "atom") if isinstance(value, dict) else None
        return merge(VARIANTS[variant], value) if isinstance(variant, str) and variant in VARIANTS else value

    @property
    def classifier_size(self) -> int:
        """Side of the classifier's crop."""
        return self.classifier.size or self.size

    @property
    def classifier_factor(self) -> float:
        """Side of the classifier's crop over that of the target."""
        return self.classifier.area_factor or self.area_factor


def variant_of(architecture: str) -> str:
    """The variant that fits a network."""
    return "drnet" if architecture.startswith("drnet") else "atom"
