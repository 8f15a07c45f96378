"""Parameters that fit a network or do not, and where a student starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import models
from configs.errors import RequestError, RunError
from models.backbones import BACKBONES
from models.checkpoint import load_state

TINY = "atom_resnet18tiny"


@pytest.fixture(scope="module")
def tracker() -> models.Tracker:
    torch.manual_seed(1)
    return models.build(TINY)


def other() -> models.Tracker:
    torch.manual_seed(2)
    return models.build(TINY)


def assert_equal(first: nn.Module, second: nn.Module) -> None:
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def changed(tracker: models.Tracker, drop: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: t for name, t in tracker.state_dict().items() if not any(word in name for word in drop)}


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(tracker: models.Tracker) -> None:
    loaded, before = other(), other()
    state = changed(tracker, ("fc3_rt.bn",)) | {"odd": torch.ones(2), "feature_extractor.conv1.weight": torch.ones(8, 3, 3, 3)}
    message = (
        r"expected atom_resnet18tiny's parameters, found in here: 4 missing \(bb_regressor.fc3_rt.bn.weight, bb_regressor.fc3_rt.bn.bias,"
        r" bb_regressor.fc3_rt.bn.running_mean, ...\), 1 extra \(odd\), 1 misshapen \(feature_extractor.conv1.weight"
        r" \(8, 3, 3, 3\) instead of \(8, 3, 7, 7\)\); give a checkpoint of this architecture"
    )
    with pytest.raises(RequestError, match=message):
        load_state(loaded, state, "here")
    assert_equal(loaded, before)


def test_the_right_architecture_is_named(tracker: models.Tracker) -> None:
    with pytest.raises(RequestError, match="it is of atom_resnet18tiny: choose that architecture"):
        load_state(models.build("atom_mobilenetsmall"), tracker.state_dict(), "here")


def test_what_is_never_run_may_be_absent(tracker: Any) -> None:
    loaded: Any = other()
    load_state(loaded, changed(tracker, (".layer4.", ".fc.", "num_batches_tracked")), "here")
    assert torch.equal(loaded.bb_regressor.fc3_rt.linear.weight, tracker.bb_regressor.fc3_rt.linear.weight)
    assert not torch.equal(loaded.feature_extractor.fc.weight, tracker.feature_extractor.fc.weight)


def test_parts(tracker: models.Tracker) -> None:
    loaded, before = other(), other()
    load_state(loaded, changed(tracker, ("bb_regressor.fc3",)) | {"stranger": torch.ones(1)}, "here", ("backbone",))
    assert_equal(loaded.feature_extractor, tracker.feature_extractor)
    assert_equal(loaded.bb_regressor, before.bb_regressor)
    with pytest.raises(RequestError, match="expected a part among backbone, head, found 'neck'"):
        load_state(loaded, tracker.state_dict(), "here", ("neck",))


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_parameters_of_no_floating_point_are_refused(tracker: models.Tracker, dtype: torch.dtype) -> None:
    """Cast, a quantised file would be a network of zeros, and a complex one of half of its numbers."""
    loaded = other()
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tracker.state_dict().items()}
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(RequestError, match=rf"expected parameters of floating point, found .* of here in {kind}; use the checkpoint it is"):
        load_state(loaded, state, "here")
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())


def test_numbers_that_are_not_finite(tracker: models.Tracker) -> None:
    state = tracker.state_dict() | {"bb_regressor.iou_predictor.bias": torch.tensor([float("nan")])}
    with pytest.raises(RequestError, match=r"expected finite parameters, found bb_regressor.iou_predictor.bias of here with NaN or inf"):
        load_state(other(), state, "here")


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_the_architecture_is_guessed(architecture: str) -> None:
    with torch.device("meta"):
        state = models.build(architecture).state_dict()
    assert models.guess_architecture(state) == architecture
    run = {name: t for name, t in state.items() if not any(f".{word}." in name for word in ("layer4", "fc", "classifier"))}
    assert len(run) < len(state)
    assert models.guess_architecture(run) == architecture
    run.pop("bb_regressor.conv4_1t.0.weight")
    with pytest.raises(RequestError, match=r"expected the parameters of one of atom_resnet18, .* that fit none"):
        models.guess_architecture(run)


# --- where a student starts from -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "name"), [("atom_resnet18", "resnet18"), ("atom_mobilenetsmall", "mobilenet_v2")])
def test_a_torchvision_file_is_a_backbone(tmp_path: Path, architecture: str, name: str) -> None:
    torch.manual_seed(3)
    source = getattr(torchvision.models, name)(weights=None)
    path = tmp_path / "w.pth"
    torch.save(source.state_dict(), path)
    tracker = models.build(architecture)
    head = [tensor.clone() for tensor in tracker.bb_regressor.state_dict().values()]
    assert models.start_from(tracker, str(path)) == f"backbone of {path}, random head"
    for a, b in zip(tracker.feature_extractor.state_dict().values(), source.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(head, tracker.bb_regressor.state_dict().values(), strict=True))
    with pytest.raises(RequestError, match=r"missing \(bb_regressor.conv3_1r.0.weight"):
        models.load_weights(tracker, path)


def test_start_from_a_file_or_nothing(tracker: models.Tracker, tmp_path: Path) -> None:
    loaded, before = other(), other()
    assert models.start_from(loaded, None) == "random weights"
    assert_equal(loaded, before)
    models.save_weights(tracker, tmp_path / "w.safetensors")
    assert models.start_from(loaded, str(tmp_path / "w.safetensors")).startswith("backbone and head of")
    assert_equal(loaded, tracker)
    with pytest.raises(RequestError, match=r"expected student.weights null, imagenet or a file, found 'imagnet', which is no file"):
        models.start_from(loaded, "imagnet")


class Published:
    """Stands in for torchvision's weights."""

    url = "https://download.pytorch.org/models/resnet18.pth"

    def __init__(self, answer: dict[str, Tensor] | Exception) -> None:
        self.answer = answer

    def get_state_dict(self, **_: Any) -> dict[str, Tensor]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = torchvision.models.resnet18(weights=None)
    tracker: Any = models.build("atom_resnet18")
    row = BACKBONES["resnet18"]
    monkeypatch.setitem(BACKBONES, "resnet18", row._replace(imagenet={64: Published(source.state_dict())}))
    assert models.start_from(tracker, "imagenet") == "ImageNet backbone, random head"
    assert torch.equal(tracker.feature_extractor.layer3[0].conv1.weight, source.layer3[0].conv1.weight)
    monkeypatch.setitem(BACKBONES, "resnet18", row._replace(imagenet={64: Published(OSError("no route\nto host"))}))
    with pytest.raises(
        RunError, match=r"expected to fetch https://.*, found: no route to host; fetch it elsewhere and set student.weights=FILE"
    ):
        models.load_imagenet_backbone(tracker)
    with pytest.raises(RequestError, match=r"found atom_resnet18tiny, a resnet18 of width 8; set student.weights to null or to a file"):
        models.load_imagenet_backbone(other())


def test_published_weights_exist_for_every_full_backbone() -> None:
    assert {spec.backbone for spec in models.ARCHITECTURES.values()} == set(BACKBONES)
    assert {name: list(row.imagenet) for name, row in BACKBONES.items()} == {"resnet18": [64], "resnet50": [64], "mobilenet_v2": [32]}
    assert all(weights.url.startswith("https://") for row in BACKBONES.values() for weights in row.imagenet.values())
