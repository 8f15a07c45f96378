"""Where a student starts from: torchvision's ImageNet backbones, or a file."""

from __future__ import annotations

from pathlib import Path

from configs.errors import RequestError, RunError
from models.backbones import BACKBONES
from models.checkpoint import load_state, read_state
from models.tracker import ARCHITECTURES, PARTS, Tracker


def load_imagenet_backbone(tracker: Tracker) -> None:
    """Loads torchvision's ImageNet weights (fetched once into torch's hub folder) into the backbone.

    RequestError for a backbone or a width that has none; RunError where the internet does not reach them.
    """
    spec = ARCHITECTURES[tracker.architecture]
    weights = BACKBONES[spec.backbone].imagenet.get(spec.width)
    if weights is None:
        raise RequestError(
            f"student.weights=imagenet: expected a backbone of published width, found {tracker.architecture}, a {spec.backbone} of"
            f" width {spec.width}; set student.weights to null or to a file"
        )
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"expected to fetch {weights.url}, found: {' '.join(str(error).split())}; fetch it elsewhere and set student.weights=FILE"
        ) from error
    load_state(tracker, state, weights.url, ("backbone",))


def start_from(tracker: Tracker, weights: str | None) -> str:
    """Does what the field `student.weights` says and returns it in words.

    None: nothing; `imagenet`: torchvision's backbone; else a file: of a whole tracker, or of a backbone alone.
    """
    if weights is None:
        return "random weights"
    if weights == "imagenet":
        load_imagenet_backbone(tracker)
        return "ImageNet backbone, random head"
    if not Path(weights).is_file():
        raise RequestError(f"expected student.weights null, imagenet or a file, found {weights!r}, which is no file; correct the path")
    state, _ = read_state(weights)
    if any(name.startswith(f"{PARTS['head']}.") for name in state):
        load_state(tracker, state, weights)
        return f"backbone and head of {weights}"
    load_state(tracker, state, weights, ("backbone",))
    return f"backbone of {weights}, random head"
