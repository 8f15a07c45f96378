"""A backbone is its class and one row of BACKBONES: everything else follows, as this toy shows."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import models
from configs.cli import run
from configs.errors import RequestError
from configs.schema import ImageConfig, PairsConfig, SearchImageConfig
from models.__main__ import main
from models.backbones import Backbone, BackboneRow
from models.checkpoint import load_state
from models.tracker import Architecture

NAME = "atom_toy"


class Toy(Backbone):
    """One convolution a stage; its classifier is never run. Published files call the stages stage0 to stage3."""

    unused = ("classifier",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = {layer: width * 2**k for k, layer in enumerate(models.LAYERS)}
        inputs = 3
        for layer, channels in self.channels.items():
            setattr(self, layer, nn.Sequential(nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU()))
            inputs = channels
        self.classifier = nn.Linear(inputs, 10)
        self.stop_unused()

    @classmethod
    def our_name(cls, name):
        stage, _, rest = name.partition(".")
        return f"{models.LAYERS[int(stage[-1])]}.{rest}" if stage.startswith("stage") else name


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, "toy", BackboneRow(Toy, {}))
    monkeypatch.setitem(models.ARCHITECTURES, NAME, Architecture("toy", 4, 16, 1))


def toy(seed: int) -> models.Tracker:
    torch.manual_seed(seed)
    return models.build(NAME)


def test_it_trains_a_step():
    tracker = toy(0)
    optimizer = torch.optim.Adam([parameter for parameter in tracker.parameters() if parameter.requires_grad], lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    ref, test = (torch.randn(4, 3, size, size, generator=generator) for size in (32, 64))
    boxes = 4 + 20 * torch.rand(4, 5, 4, generator=generator)
    losses = []
    for _ in range(8):
        loss = tracker(ref, test, boxes[:, 0] / 2, boxes).prediction.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for name, parameter in tracker.named_parameters() if "classifier" not in name)


def test_it_is_saved_loaded_and_recognised(tmp_path, capsys):
    tracker, loaded, path = toy(0), toy(1), tmp_path / "toy.safetensors"
    kept = {name: tensor for name, tensor in tracker.state_dict().items() if "classifier" not in name}
    models.save_weights(kept, path)
    assert models.guess_architecture(models.read_state(path)[0]) == NAME
    models.load_weights(loaded, path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in kept.items())
    assert models.network_sizes(NAME) == ({"conv1": 4, "layer1": 8, "layer2": 16, "layer3": 32}, 1)
    assert run(main, ["convert", str(path), str(tmp_path / "toy.pth.tar")]) == 0
    capsys.readouterr()
    assert run(main, ["show", str(tmp_path / "toy.pth.tar"), "--ref-size", "32", "--test-size", "64", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    geometry = PairsConfig(ref=ImageConfig(size=32), test=SearchImageConfig(size=64))
    assert facts["architecture"] == NAME
    assert facts["mflops"] == pytest.approx(models.flops(tracker, geometry) / 1e6, abs=0.1)
    assert facts["parameters"] - facts["parameters_used"] == 32 * 10 + 10


def test_it_starts_from_a_published_file_of_the_backbone():
    tracker, twin = toy(0), toy(1)
    published = {}
    for name, tensor in twin.feature_extractor.state_dict().items():
        stage, _, rest = name.partition(".")
        published[f"stage{models.LAYERS.index(stage)}.{rest}" if stage in models.LAYERS else name] = tensor
    load_state(tracker, published, "here", ("backbone",))
    for ours, theirs in zip(tracker.feature_extractor.parameters(), twin.feature_extractor.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(RequestError, match="expected a backbone of published width, found atom_toy, a toy of width 4;"):
        models.start_from(tracker, "imagenet")
