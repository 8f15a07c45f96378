"""`models deploy` and `models bench` from the command line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models
from cache import Array, Cache, PairSetSpec
from configs.cli import run
from models.__main__ import main
from models.bench import pictures


def test_an_int8_file_says_how_far_it_is_and_is_timed_beside_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    weights, file, frames = tmp_path / "w.safetensors", tmp_path / "w.onnx", tmp_path / "frames"
    models.save_weights(models.build("atom_resnet18tiny").eval(), weights)
    deploy = ["deploy", str(weights), str(file), "--crop-size", "64", "--precision", "int8"]
    assert run(main, deploy) == 2
    assert "int8: expected crops to calibrate on, found none; give --cache CACHE or --images DIR" in capsys.readouterr().err
    assert not file.exists()
    frames.mkdir()
    assert run(main, [*deploy, "--images", str(frames)]) == 2
    assert "--images: expected a folder with two images or more, found 0" in capsys.readouterr().err
    crops = []
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(frames / f"{number}.png"), cv2.resize(picture, (80, 64)))
        crops.append((cv2.imencode(".jpg", cv2.resize(picture, (64, 64)))[1].tobytes(),) * 2)
    assert pictures(str(frames), 32).shape == (4, 32, 32, 3)
    cache = Cache.create(tmp_path / "c", PairSetSpec({"of": "noise"}, 4, [Array("grey", (), "bool", "")], 9000, 4, 4, {}))
    cache.pairs.write(0, {"grey": np.zeros(4, bool)}, crops)
    assert run(main, [*deploy[:-3], "96", *deploy[-2:], "--cache", str(tmp_path / "c")]) == 2
    assert "--cache: expected two crops of 96 pixels or more, found crops of 64" in capsys.readouterr().err
    assert run(main, [*deploy, "--cache", str(tmp_path / "c")]) == 0
    line, worth = capsys.readouterr().out.splitlines()
    assert worth.startswith("int8: ") and worth.count(" pay") == 2 and f"{file.stat().st_size / 1e6:.2f} MB" in worth
    assert "atom_resnet18tiny, int8" in line and "on 4 crops of" in line
    away = float(line.rpartition("predicted IoU ")[2].split(",")[0])
    assert 1e-6 < away < 0.2
    threads = torch.get_num_threads()
    try:
        assert run(main, ["bench", str(weights), str(file), "--crop-size", "64"]) == 0
    finally:
        torch.set_num_threads(threads)
    head, first, second, note = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "file" and first.startswith(str(weights)) and second.startswith(str(file))
    assert all("atom_resnet18tiny at 64" in row and float(row.split()[-1]) > 0 for row in (first, second))
    assert "1 thread, torch" in note
