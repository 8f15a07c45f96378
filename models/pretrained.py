"""Where a student starts from: torchvision's ImageNet backbones, or a file."""

from __future__ import annotations

from pathlib import Path

import torchvision

from configs.errors import RequestError, RunError
from models.checkpoint import load_state, read_state, with_our_names
from models.tracker import ARCHITECTURES, PARTS, Tracker

# Trained on the demo's generated video: lets the commands be tried without a public checkpoint.
DEMO_TEACHER = Path(__file__).parent / "demo_teacher" / "atom_resnet18medium.safetensors"

# The first published weights: those that the public trackers started from.
IMAGENET = {
    "resnet18": torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
    "mobilenet_v2": torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1,
}


def load_imagenet_backbone(tracker: Tracker) -> None:
    """Loads torchvision's ImageNet weights (fetched once into torch's hub folder) into the backbone.

    RequestError for a narrow ResNet, which has none; RunError where the network does not reach them.
    """
    spec = ARCHITECTURES[tracker.architecture]
    if spec.backbone == "resnet18" and spec.width != 64:
        raise RequestError(
            f"student.weights=imagenet: expected a backbone of published width, found {tracker.architecture}, a ResNet-18 of"
            f" width {spec.width}; set student.weights to null or to a file"
        )
    weights = IMAGENET[spec.backbone]
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
    state = with_our_names(state)
    if any(name.startswith(f"{PARTS['head']}.") for name in state):
        load_state(tracker, state, weights)
        return f"backbone and head of {weights}"
    load_state(tracker, state, weights, ("backbone",))
    return f"backbone of {weights}, random head"
