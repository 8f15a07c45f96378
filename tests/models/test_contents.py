"""What `show` says of a checkpoint: of ours, of another network, of none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import models
from configs.cli import run
from models.__main__ import main


def shown(content: Any, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """(JSON, text) that `show` prints of a file with that content."""
    torch.save(content, path)
    assert run(main, ["show", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert run(main, ["show", str(path)]) == 0
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.splitlines())
    return facts, text


def test_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Settings", (), {"__module__": "siam.config"})
    monkeypatch.setitem(sys.modules, "siam", ModuleType("siam"))
    monkeypatch.setitem(sys.modules, "siam.config", SimpleNamespace(Settings=kind))
    settings = kind()
    settings.__dict__.update(lr=0.01, window=float("inf"), name="a\x1b[2Jb", sizes=[127, 255], fn=kind)
    state = {"backbone.a.weight": torch.ones(2, 3), "backbone.b.weight": torch.ones(4, dtype=torch.float16), "neck.bias": torch.ones(5)}
    content = {"state_dict": state, "optimizer": {"state": {0: {"m": torch.ones(9)}}}, "epoch": 7, "settings": settings}
    content["itself"] = content
    facts, text = shown(content, tmp_path / "siam.pth", capsys)
    assert facts["architecture"] is None
    assert "that fit none" in facts["problem"]
    network = facts["networks"]["state_dict"]
    assert (network["tensors"], network["numbers"]) == (3, 15)
    assert {group: totals["tensors"] for group, totals in network["groups"].items()} == {"backbone": 2, "neck": 1}
    assert network["groups"]["backbone"]["first"] == "backbone.a.weight (2, 3) float32"
    assert list(facts["networks"]) == ["state_dict"]
    data = {"epoch": 7, "settings.lr": 0.01, "settings.window": "inf", "settings.name": "a\\x1b[2Jb", "settings.sizes": [127, 255]}
    assert facts["data"] == data
    assert facts["foreign"] == ["siam.config.Settings"]
    assert facts["nearest"]["extra"] == 3
    assert facts["nearest"]["network"] == "state_dict"
    assert "network     state_dict: 3 tensors, 15 numbers" in text
    assert "data        epoch: 7" in text
    assert "names or shapes differ" in text


def test_one_of_ours_with_its_key_and_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"module.{name}": tensor for name, tensor in models.build("atom_resnet18tiny").state_dict().items()}
    facts, text = shown({"network": state, "ema": state, "epoch": 3}, tmp_path / "w.pth", capsys)
    assert facts["architecture"] == "atom_resnet18tiny"
    assert facts["metadata"] == {"file": "PyTorch", "key": "network", "other_keys": "ema", "epoch": "3", "prefix": "module."}
    assert (facts["nearest"]["architecture"], facts["nearest"]["differ"]) == ("atom_resnet18tiny", 0)
    assert {"module.feature_extractor", "module.bb_regressor"} == set(facts["networks"]["network"]["groups"])
    assert "to use it" not in text
    assert "key: network\nother_keys: ema" in text


def test_what_is_needed_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts, text = shown(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth", capsys)
    near = facts["nearest"]
    assert (near["architecture"], near["misshapen"], near["extra"], near["parts_that_fit"]) == ("atom_resnet18", 0, 0, ["backbone"])
    assert near["examples"]["missing"][0] == "bb_regressor.conv3_1r.0.weight"
    assert "its backbone fits: student.architecture=atom_resnet18 student.weights=" in text
    state = models.build("atom_mobilenetsmall").state_dict() | {"bb_regressor.more": torch.ones(1)}
    state["bb_regressor.iou_predictor.bias"] = torch.ones(7)
    near = shown({"model": state}, tmp_path / "w.pth", capsys)[0]["nearest"]
    assert (near["architecture"], near["missing"], near["extra"], near["misshapen"]) == ("atom_mobilenetsmall", 0, 1, 1)


@pytest.mark.parametrize(
    "content", [{"epoch": 3, "huge": 10**6000}, [torch.ones(2)], {"a": torch.ones(2), "b": 3}, {"a": torch.ones(1).expand(2**39)}]
)
def test_whatever_is_safe_to_read_is_shown(tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    facts, text = shown(content, tmp_path / "w.pth", capsys)
    assert facts["architecture"] is None
    assert f"problem     {facts['problem']}" in text


def test_a_whole_pickled_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts, _ = shown(nn.Sequential(nn.Linear(2, 3)), tmp_path / "w.pth", capsys)
    assert facts["networks"]["_modules.0._parameters"]["numbers"] == 9
    assert "torch.nn.modules.linear.Linear" in facts["foreign"]


def test_safetensors_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.save_weights({"a.b": torch.ones(2), "a.c": torch.ones(3)}, tmp_path / "w.safetensors")
    assert run(main, ["show", str(tmp_path / "w.safetensors"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "safetensors"
    assert set(facts["networks"][""]["groups"]) == {"a.b", "a.c"}
