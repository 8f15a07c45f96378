"""The command line: show, convert in both directions, ONNX graphs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models
import models.export
from configs.cli import run
from configs.errors import RequestError, RunError
from configs.schema import ImageConfig, PairsConfig, SearchImageConfig
from models.__main__ import main
from models.convert import convert, load_tracker

TINY = "atom_resnet18tiny"


def of_sizes(ref: int, test: int) -> PairsConfig:
    return PairsConfig(ref=ImageConfig(size=ref), test=SearchImageConfig(size=test))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    models.save_weights(models.build(TINY), path, metadata={"setting": "gt"})
    return path


def test_show(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["show", str(weights), "--crop-size", "64"]) == 0
    text = capsys.readouterr().out
    assert TINY in text
    assert "setting: gt" in text
    assert run(main, ["show", str(weights), "--crop-size", "64", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    tracker = models.build(TINY)
    total = sum(parameter.numel() for parameter in tracker.parameters())
    backbone: Any = tracker.feature_extractor
    idle = sum(parameter.numel() for module in (backbone.layer4, backbone.fc) for parameter in module.parameters())
    assert (facts["parameters"], facts["parameters_used"]) == (total, total - idle)
    assert facts["parameters_backbone"] + facts["parameters_head"] == total
    assert facts["megabytes"] == pytest.approx((total - idle) * 4e-6, abs=0.01)
    assert facts["mflops"] == pytest.approx(models.flops(tracker, of_sizes(64, 64)) / 1e6, abs=0.1)
    assert facts["sha256"] == models.weights_digest(weights)
    assert facts["metadata"]["architecture"] == facts["architecture"] == TINY
    assert run(main, ["show", str(weights), "--ref-size", "32", "--test-size", "64"]) == 0
    mflops = round(models.flops(tracker, of_sizes(32, 64)) / 1e6, 1)
    assert f"MFLOPs      {mflops:,} multiply-adds * 10^6, one pair of 32- and 64-pixel crops, 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "none.pth"], "error: expected a checkpoint file, found nothing at none.pth"),
        (["show", "x", "--crop-size", "100"], "expected a multiple of 16, at least 32, found '100'"),
        (["export", "x", "y", "--test-size", "8"], "expected a multiple of 16, at least 32, found '8'"),
        (["shwo", "x"], "invalid choice: 'shwo'"),
    ],
)
def test_wrong_requests(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = run(main, arguments)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_name_of_the_command_is_the_callers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["show"], prog="teachonce models")
    assert capsys.readouterr().err.endswith("; see teachonce models show --help\n")


@pytest.mark.parametrize("options", [[], ["--legacy"]])
@pytest.mark.parametrize("name", ["w.pth", "w.pth.tar"])
def test_there_and_back(weights: Path, tmp_path: Path, options: list[str], name: str) -> None:
    assert run(main, ["convert", str(weights), str(tmp_path / name), *options]) == 0
    assert run(main, ["convert", str(tmp_path / name), str(tmp_path / "back.safetensors")]) == 0
    first, second = models.read_state(weights)[0], models.read_state(tmp_path / "back.safetensors")[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert models.read_state(tmp_path / "back.safetensors")[1]["constructor"] == TINY


@pytest.fixture
def public_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The least of the public package that its loader needs: the constructor's class, and a function that builds the network."""
    for folder in ("ltr", "ltr/admin", "ltr/models", "ltr/models/bbreg"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "ltr/admin/model_constructor.py").write_text("class NetConstructor:\n    real = True\n")
    for module in ("atom", "DRNet"):
        (tmp_path / f"ltr/models/bbreg/{module}.py").write_text(
            "import models\n"
            "def __getattr__(name):\n"
            "    def build(*args, backbone_pretrained=True):\n"
            "        assert not args and not backbone_pretrained\n"
            "        return models.build(name)\n"
            "    return build\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "ltr"]:
        del sys.modules[name]


@pytest.mark.usefixtures("public_loader")
@pytest.mark.parametrize(("architecture", "net_type"), [(TINY, "ATOMnet"), ("drnet_mobilenetsmall", "DRNet")])
def test_the_public_loader_takes_it(tmp_path: Path, architecture: str, net_type: str) -> None:
    source = models.build(architecture)
    models.save_weights(source, tmp_path / "w.safetensors")
    assert convert(tmp_path / "w.safetensors", tmp_path / "w.pth.tar") == architecture
    assert not any(name.split(".")[0] == "ltr" for name in sys.modules)
    # what the public loader does, step by step
    content = torch.load(tmp_path / "w.pth.tar", weights_only=False)
    constructor = content["constructor"]
    assert constructor.real
    constructor.kwds.update({key: value for key, value in {"backbone_pretrained": False}.items() if key in constructor.kwds})
    network = getattr(importlib.import_module(constructor.fun_module), constructor.fun_name)(*constructor.args, **constructor.kwds)
    network.load_state_dict(content["net"])
    assert network.architecture == architecture
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), source.state_dict().values(), strict=True))
    assert content["net_type"] == net_type
    assert content["net_info"] is None


@pytest.mark.usefixtures("public_loader")
def test_modules_that_are_installed_come_back(weights: Path, tmp_path: Path) -> None:
    real = importlib.import_module("ltr.admin.model_constructor")
    convert(weights, tmp_path / "w.pth")
    assert sys.modules["ltr.admin.model_constructor"] is real


def test_what_a_file_lacks_is_filled_the_same_way(weights: Path, tmp_path: Path) -> None:
    state = {name: t for name, t in models.read_state(weights)[0].items() if ".layer4." not in name}
    models.save_weights(state, tmp_path / "less.safetensors")
    for k in range(2):
        torch.manual_seed(k)
        convert(tmp_path / "less.safetensors", tmp_path / f"{k}.safetensors")
    assert models.weights_digest(tmp_path / "0.safetensors") == models.weights_digest(tmp_path / "1.safetensors")


def test_an_output_that_is_no_checkpoint(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"expected an output name ending in .safetensors, .pth, .pth.tar, found w.onnx; rename it"):
        convert(weights, tmp_path / "w.onnx")
    with pytest.raises(RequestError, match=r"expected --dtype with .safetensors and --legacy with .pth.tar only"):
        convert(weights, tmp_path / "w.pth", torch.float16)
    with pytest.raises(RequestError, match=r"expected --dtype with .safetensors and --legacy with .pth.tar only"):
        convert(weights, tmp_path / "w.safetensors", legacy=True)


@pytest.mark.parametrize(("architecture", "sizes"), [(TINY, (64, 64)), ("drnet_mobilenetsmall", (64, 64)), (TINY, (48, 80))])
def test_onnx_graphs_track_as_pytorch_does(tmp_path: Path, architecture: str, sizes: tuple[int, int]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    tracker = models.build(architecture).eval()
    done = models.export.export(tracker, tmp_path, of_sizes(*sizes))
    backbones = ("backbone", "backbone") if sizes[0] == sizes[1] else ("backbone_ref", "backbone_test")
    assert [graph.name for graph in done] == [*dict.fromkeys(backbones), "modulation", "prediction"]
    assert all(graph.error < 1e-4 and graph.path.is_file() for graph in done)
    sessions = {graph.name: runtime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"]) for graph in done}
    generator = torch.Generator().manual_seed(9)
    ref, test = (torch.randn(3, 3, size, size, generator=generator) for size in sizes)
    box, proposals = 4 + 30 * torch.rand(3, 4, generator=generator), 4 + 30 * torch.rand(3, 7, 4, generator=generator)
    first, second = (sessions[name].run(None, {"image": image.numpy()}) for name, image in zip(backbones, (ref, test), strict=True))
    vectors = sessions["modulation"].run(None, {"layer2": first[0], "layer3": first[1], "box": box.numpy()})
    feed = {"vector3": vectors[0], "vector4": vectors[1], "layer2": second[0], "layer3": second[1], "proposals": proposals.numpy()}
    (prediction,) = sessions["prediction"].run(None, feed)
    with torch.no_grad():
        expected = tracker(ref, test, box, proposals).prediction.numpy()
    np.testing.assert_allclose(prediction, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_graph_that_differs_is_not_kept(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    real = models.export._difference
    monkeypatch.setattr(models.export, "_difference", lambda session, graph, inputs: real(session, graph, [2 * x for x in inputs]) + 1e-3)
    with pytest.raises(RunError, match=r"expected backbone.onnx within 0.0001 of PyTorch, found 1.0e-03"):
        models.export.export(load_tracker(weights)[0], tmp_path / "graphs", of_sizes(64, 64))
    assert not (tmp_path / "graphs").exists()


def test_without_the_packages(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(main, ["export", str(weights), str(tmp_path)]) == 1
    assert "pip install onnx onnxruntime" in capsys.readouterr().err
